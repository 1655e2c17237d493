#include "distill/learning_rate.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "engine/core/assert.h"

namespace pare {
namespace {

struct NamedShape {
  std::string_view name;
  LearningRateShape shape;
};
constexpr std::array kShapes{NamedShape{"constant", LearningRateShape::constant},
                             NamedShape{"linear", LearningRateShape::linear},
                             NamedShape{"cosine", LearningRateShape::cosine},
                             NamedShape{"wsd", LearningRateShape::warmup_stable_decay}};

Error option_error(const char* option, std::string what, std::string got, std::string limit) {
  return Error{.exit = Exit::usage,
               .rule = "CL06",
               .path = option,
               .what = std::move(what),
               .got = std::move(got),
               .limit = std::move(limit),
               .limit_label = "expected"};
}

// Steps of the decay of WSD, the default resolved.
int64_t decay_steps_of(const LearningRateSchedule& schedule) {
  if (schedule.decay_steps > 0) return schedule.decay_steps;
  return std::min(schedule.steps - schedule.warmup, std::max<int64_t>(1, schedule.steps / 10));
}

}  // namespace

Status LearningRateSchedule::validate() const {
  if (!(peak > 0.0) || !std::isfinite(peak))
    return option_error("--lr", "not a learning rate", fmt::format("{}", peak), "a positive number");
  if (!(minimum >= 0.0 && minimum <= peak))
    return option_error("--lr-min", "not between zero and the learning rate", fmt::format("{}", minimum),
                        fmt::format("0 to {}", peak));
  if (steps < 1) return option_error("--steps", "no step to train", fmt::format("{}", steps), "at least 1");
  if (warmup < 0 || warmup > steps)
    return option_error("--warmup", "not a number of steps of this run", fmt::format("{}", warmup),
                        fmt::format("0 to {}", steps));
  if (decay_steps < 0 || decay_steps > steps - warmup)
    return option_error("--lr-decay-steps", "not a number of steps behind the warm-up",
                        fmt::format("{}", decay_steps), fmt::format("0 to {}", steps - warmup));
  return {};
}

double LearningRateSchedule::at(int64_t step) const {
  PARE_ASSERT(step >= 0, "[learning_rate] step {}", step);
  if (step < warmup) return peak * double(step + 1) / double(warmup);
  const int64_t t = std::min(step, steps);
  // Share of the way from the first step behind the warm-up to T; a run that only warms up stays at the peak.
  const double u = steps > warmup ? double(t - warmup) / double(steps - warmup) : 0.0;
  switch (shape) {
    case LearningRateShape::constant:
      return peak;
    case LearningRateShape::linear:
      return minimum + (peak - minimum) * (1.0 - u);
    case LearningRateShape::cosine:
      return minimum + 0.5 * (peak - minimum) * (1.0 + std::cos(std::numbers::pi * u));
    case LearningRateShape::warmup_stable_decay:
      break;
  }
  const int64_t decay = decay_steps_of(*this);
  if (t <= steps - decay || decay == 0) return peak;
  const double v = double(t - (steps - decay)) / double(decay);
  return minimum + (peak - minimum) * (1.0 - std::sqrt(v));
}

Json LearningRateSchedule::to_json() const {
  Json json = Json::object();
  json["shape"] = learning_rate_shape_name(shape);
  json["peak"] = peak;
  json["minimum"] = minimum;
  json["warmup"] = warmup;
  json["steps"] = steps;
  if (shape == LearningRateShape::warmup_stable_decay) json["decay_steps"] = decay_steps_of(*this);
  return json;
}

std::string_view learning_rate_shape_name(LearningRateShape shape) {
  for (const NamedShape& entry : kShapes)
    if (entry.shape == shape) return entry.name;
  PARE_ASSERT(false, "[learning_rate] shape {}", int(shape));
  return {};
}

Result<LearningRateShape> learning_rate_shape_from_name(std::string_view name) {
  std::string names;
  for (const NamedShape& entry : kShapes) {
    if (entry.name == name) return entry.shape;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", entry.name);
  }
  return option_error("--lr-schedule", "unknown schedule", std::string(name), names);
}

}  // namespace pare
