#include "distill/loss.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <utility>

namespace pare {
namespace {

constexpr std::array<std::pair<LossKind, std::string_view>, 6> kKinds = {
    {{LossKind::ce, "ce"},
     {LossKind::kl, "kl"},
     {LossKind::ce_kl, "ce+kl"},
     {LossKind::reverse_kl, "reverse-kl"},
     {LossKind::jsd, "jsd"},
     {LossKind::tvd, "tvd"}}};
constexpr std::array<std::pair<TeacherTail, std::string_view>, 3> kTails = {
    {{TeacherTail::bucket, "bucket"}, {TeacherTail::zero, "zero"}, {TeacherTail::topk, "topk"}}};

Error bad_value(const char* where, const char* what, std::string got, std::string limit) {
  return Error{.exit = Exit::usage,
               .rule = "CL06",
               .path = "loss",
               .where = where,
               .what = what,
               .got = std::move(got),
               .limit = std::move(limit)};
}

}  // namespace

std::string_view loss_kind_name(LossKind kind) {
  for (const auto& [value, name] : kKinds)
    if (value == kind) return name;
  return "?";
}

Result<LossKind> loss_kind_from_name(std::string_view name) {
  for (const auto& [value, known] : kKinds)
    if (known == name) return value;
  return bad_value("kind", "no such loss", std::string(name), "ce, kl, ce+kl, reverse-kl, jsd, tvd");
}

std::string_view teacher_tail_name(TeacherTail tail) {
  for (const auto& [value, name] : kTails)
    if (value == tail) return name;
  return "?";
}

Result<TeacherTail> teacher_tail_from_name(std::string_view name) {
  for (const auto& [value, known] : kTails)
    if (known == name) return value;
  return bad_value("tail", "no such way to treat the other ids", std::string(name), "bucket, zero, topk");
}

LossConfig LossConfig::defaults(LossKind kind, bool is_cut_from_teacher) {
  LossConfig config{.kind = kind};
  if (kind == LossKind::ce) config.alpha = 1.0;
  if (kind == LossKind::ce_kl) {
    config.alpha = 0.5;
    if (!is_cut_from_teacher) config.temperature = 2.0;
  }
  return config;
}

Divergence LossConfig::divergence() const {
  switch (kind) {
    case LossKind::ce:
      return Divergence::none;
    case LossKind::kl:
    case LossKind::ce_kl:
      return Divergence::forward_kl;
    case LossKind::reverse_kl:
      return Divergence::reverse_kl;
    case LossKind::jsd:
      return Divergence::jensen_shannon;
    case LossKind::tvd:
      break;
  }
  return Divergence::total_variation;
}

Status LossConfig::validate() const {
  const auto text = [](double value) { return fmt::format("{}", value); };
  if (!(alpha >= 0.0 && alpha <= 1.0)) return bad_value("alpha", "not a share", text(alpha), "0 to 1");
  if (!(temperature >= 0.01 && temperature <= 1000.0))
    return bad_value("temperature", "outside its range", text(temperature), "0.01 to 1000");
  if (!(beta > 0.0 && beta < 1.0))
    return bad_value("beta", "outside its range", text(beta), "above 0, below 1");
  if (kind == LossKind::ce && alpha != 1.0)
    return bad_value("alpha", "ce has no second part; ce+kl has", text(alpha), "1");
  if (kind == LossKind::kl && alpha != 0.0)
    return bad_value("alpha", "kl has no second part; ce+kl has", text(alpha), "0");
  if (needs_teacher() && alpha == 1.0)
    return bad_value("alpha", "nothing is left of the teacher; use ce", text(alpha), "below 1");
  return {};
}

Json LossConfig::to_json() const {
  Json json = Json::object();
  json["kind"] = loss_kind_name(kind);
  json["alpha"] = alpha;
  if (!needs_teacher()) return json;
  json["temperature"] = temperature;
  json["squares_temperature"] = squares_temperature;
  if (kind == LossKind::jsd) json["beta"] = beta;
  json["tail"] = teacher_tail_name(tail);
  return json;
}

ops::LossRowsOptions rows_options(const LossConfig& config, int64_t real_columns, float softcap,
                                  float gradient_scale) {
  return {.real_columns = real_columns,
          .kind = config.divergence(),
          .tail = config.tail,
          .alpha = float(config.alpha),
          .temperature = float(config.temperature),
          .beta = float(config.beta),
          .squares_temperature = config.squares_temperature,
          .softcap = softcap,
          .gradient_scale = gradient_scale};
}

}  // namespace pare
