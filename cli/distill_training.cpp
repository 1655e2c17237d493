#include "cli/distill_training.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <utility>

#include "engine/core/signals.h"

namespace pare::cli {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Error stopped(const TrainingInput& input) {
  if (input.folder != nullptr) return input.folder->interrupted_error();
  return Error{.exit = Exit::interrupted, .path = "pare", .what = "interrupted"};
}

// Mean cross entropy on the validation windows, shared out over the processes.
Result<ValidationPoint> validate(const TrainingInput& input, Trainer& trainer) {
  const int64_t windows = input.data.validation_windows, ranks = input.group.size(),
                rank = input.group.rank();
  const int64_t begin = windows * rank / ranks, end = windows * (rank + 1) / ranks;
  std::array<double, 2> sums{0.0, 0.0};
  if (begin < end) {
    PARE_TRY(const Trainer::Validation own, trainer.validate(*input.data.validation, begin, end));
    sums = {own.cross_entropy * double(own.tokens), double(own.tokens)};
  }
  PARE_CHECK(input.group.exchange().sum(std::span<double>(sums)));
  if (!std::isfinite(sums[0]))
    return Error{.exit = Exit::numeric,
                 .rule = "NU11",
                 .path = "validation",
                 .where = fmt::format("step {}", trainer.step_number()),
                 .what = "the loss is not a number"};
  return ValidationPoint{.step = trainer.step_number(), .cross_entropy = sums[0] / std::max(1.0, sums[1])};
}

// Validations since the best one.
int64_t worse_in_a_row(const TrainingPosition& position) {
  int64_t count = 0;
  for (auto at = position.validations.rbegin(); at != position.validations.rend(); ++at, ++count)
    if (at->step == position.best_step) break;
  return count;
}

class TrainingRun {
 public:
  TrainingRun(const TrainingInput& input, Trainer& trainer, TrainingPosition& position, TrainingLog& log)
      : input_(input), trainer_(trainer), position_(position), log_(log) {}

  Result<TrainingOutcome> run() {
    if (!position_.state.is_null()) {
      TrainerState state;
      if (input_.folder != nullptr) {
        PARE_TRY(state, get_state(*input_.folder, position_.state));
      }
      PARE_CHECK(trainer_.restore(state));
      resumed_at_ = trainer_.step_number();
    }
    const bool was_over = !position_.ended.empty();
    last_commit_ = Clock::now();
    while (position_.ended.empty()) {
      PARE_CHECK(validate_when_due());
      if (stops_early()) {
        position_.ended = "early stop";
        break;
      }
      if (trainer_.step_number() >= position_.steps) {
        position_.ended = "done";
        break;
      }
      PARE_TRY(const StepReport report, trainer_.step());
      PARE_CHECK(log_.step(report));
      const bool stops = input_.group.any(interrupted());
      if (stops || input_.group.any(input_.group.is_first() && commit_is_due())) PARE_CHECK(commit());
      if (stops) {
        PARE_CHECK(log_.end({.step = trainer_.step_number(), .reason = "interrupted", .detail = {}}));
        return stopped(input_);
      }
    }
    // The last steps and why there are no more; then writing the output may be tried again and again.
    const int64_t taken = trainer_.step_number();
    if (!was_over) {
      PARE_CHECK(commit());
      PARE_CHECK(log_.end({.step = taken, .reason = position_.ended, .detail = {}}));
    }
    const bool goes_back =
        input_.arguments.patience > 0 && position_.best_step && *position_.best_step != taken;
    if (goes_back) {
      TrainerState best;
      if (input_.folder != nullptr) {
        PARE_TRY(best, get_state(*input_.folder, position_.best));
      }
      PARE_CHECK(trainer_.restore(best));
    }
    return TrainingOutcome{.steps = taken,
                           .best_step = trainer_.step_number(),
                           .bad_steps = trainer_.bad_steps(),
                           .resumed_at = resumed_at_,
                           .validations = position_.validations,
                           .ended = position_.ended};
  }

 private:
  bool is_validated(int64_t step) const {
    return !position_.validations.empty() && position_.validations.back().step >= step;
  }

  Status validate_when_due() {
    const int64_t step = trainer_.step_number();
    const int64_t every = validation_interval(input_.arguments, input_.data, position_.steps);
    if (every == 0 || is_validated(step) || (step % every != 0 && step != position_.steps)) return {};
    PARE_TRY(const ValidationPoint point, validate(input_, trainer_));
    position_.validations.push_back(point);
    PARE_CHECK(log_.validation({.step = point.step,
                                .cross_entropy = point.cross_entropy,
                                .loss = {},
                                .tokens = input_.data.validation_windows * input_.data.training->context(),
                                .metrics = {}}));
    if (input_.arguments.patience == 0) return {};
    const auto best = std::min_element(
        position_.validations.begin(), position_.validations.end(),
        [](const ValidationPoint& a, const ValidationPoint& b) { return a.cross_entropy < b.cross_entropy; });
    if (best->step != point.step) return {};
    position_.best_step = point.step;
    keeps_this_ = true;
    return commit();
  }

  bool stops_early() const {
    return input_.arguments.patience > 0 && worse_in_a_row(position_) >= input_.arguments.patience;
  }

  bool commit_is_due() const {
    const CheckpointRule& rule = input_.settings.checkpoints;
    if (rule.steps > 0) return trainer_.step_number() % rule.steps == 0;
    return seconds_since(last_commit_) >= rule.seconds;
  }

  Status commit() {
    TrainerState state;
    PARE_CHECK(trainer_.save(state));
    if (input_.group.is_first()) {
      PARE_TRY(StoredTrainerState stored, put_state(*input_.folder, state));
      position_.state = std::move(stored.description);
      if (keeps_this_) position_.best = position_.state;
      PARE_CHECK(log_.checkpoint(trainer_.step_number(), input_.folder->generation() + 1));
      PARE_CHECK(commit_training(*input_.folder, position_));
    }
    keeps_this_ = false;
    last_commit_ = Clock::now();
    return {};
  }

  const TrainingInput& input_;
  Trainer& trainer_;
  TrainingPosition& position_;
  TrainingLog& log_;
  Clock::time_point last_commit_;
  int64_t resumed_at_ = 0;
  bool keeps_this_ = false;  // the state that is committed next is the best so far
};

}  // namespace

int64_t validation_interval(const DistillArguments& arguments, const DistillData& data, int64_t steps) {
  if (!data.validation) return 0;
  return arguments.evaluate_every.value_or(std::max<int64_t>(1, (steps + 9) / 10));
}

Result<TrainingOutcome> run_training(const TrainingInput& input, Trainer& trainer, TrainingPosition& position,
                                     TrainingLog& log) {
  return TrainingRun(input, trainer, position, log).run();
}

Result<int64_t> decide_steps(const TrainingInput& input, Trainer& trainer, TrainingPosition& position) {
  constexpr double kShareOfTrial = 0.05, kAim = 0.97;
  constexpr int64_t kLeastTrial = 2, kMostTrial = 50;
  const double budget = 60.0 * *input.arguments.minutes;
  const auto start = Clock::now();
  double validation_seconds = 0.0;
  if (input.data.validation) {
    PARE_TRY(const ValidationPoint point, validate(input, trainer));
    static_cast<void>(point);
    validation_seconds = seconds_since(start);
  }
  std::vector<double> times;
  for (int64_t done = 0; done < kMostTrial; ++done) {
    const bool is_over = done >= kLeastTrial && seconds_since(start) > kShareOfTrial * budget;
    if (input.group.any(input.group.is_first() && is_over)) break;
    const auto begin = Clock::now();
    PARE_TRY(const StepReport report, trainer.step());
    static_cast<void>(report);
    times.push_back(seconds_since(begin));
    if (input.group.any(interrupted())) return stopped(input);
  }
  // The first step warms up caches.
  if (times.size() > 2) times.erase(times.begin());
  std::nth_element(times.begin(), times.begin() + int64_t(times.size() / 2), times.end());
  double step_seconds = std::max(1e-6, times[times.size() / 2]);
  const double evaluations = input.arguments.evaluate_every ? 0.0 : 11.0;
  const double left = kAim * budget - seconds_since(start) - evaluations * validation_seconds;
  if (input.arguments.evaluate_every)
    step_seconds += validation_seconds / double(*input.arguments.evaluate_every);
  // Everybody must come to the same number.
  step_seconds = input.group.largest(step_seconds);
  const double steps = std::floor(input.group.largest(std::max(1.0, left / step_seconds)));
  position.seconds_per_step = step_seconds;
  return int64_t(std::min(steps, 1e12));
}

}  // namespace pare::cli
