#include "evaluate/training_curve.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "evaluate/json_fields.h"

namespace pare {
namespace {

// Order of values with the ones that are not finite at the end.
double rank_of(const TrainingPoint& point) {
  return std::isfinite(point.value) ? point.value : std::numeric_limits<double>::infinity();
}

// [step, value] each.
Json points_to_json(const std::vector<TrainingPoint>& points) {
  Json json = Json::array();
  for (const TrainingPoint& point : points) {
    Json pair = Json::array();
    pair.push_back(Json(point.step));
    pair.push_back(Json(point.value));
    json.push_back(std::move(pair));
  }
  return json;
}

std::vector<TrainingPoint> read_points(JsonFields& fields, const char* key) {
  std::vector<TrainingPoint> points;
  for (const Json& item : fields.array(key)) {
    const bool is_pair = item.is_array() && item.size() == 2 && item[0].kind() == Json::Kind::integer &&
                         item[0].as_int() >= 0 && (item[1].is_number() || item[1].is_null());
    if (!is_pair) {
      fields.fail(key, "RP03", "wrong point", item.dump(), "[step, value]");
      return {};
    }
    points.push_back({item[0].as_int(),
                      item[1].is_null() ? std::numeric_limits<double>::infinity() : item[1].as_double()});
  }
  return points;
}

}  // namespace

std::optional<double> TrainingCurve::perplexity_before() const {
  if (validation.empty() || validation.front().step != 0) return std::nullopt;
  return std::exp(validation.front().value);
}

std::optional<double> TrainingCurve::perplexity_after() const {
  if (validation.empty() || validation.back().step == 0) return std::nullopt;
  return std::exp(validation.back().value);
}

std::vector<TrainingPoint> thin(const std::vector<TrainingPoint>& points, size_t limit) {
  if (points.size() <= limit) return points;
  std::vector<TrainingPoint> kept = {points.front()};
  const size_t inner = points.size() - 2, stretches = (limit - 2) / 2;
  for (size_t i = 0; i < stretches; ++i) {
    const auto begin = points.begin() + ptrdiff_t(1 + inner * i / stretches);
    const auto end = points.begin() + ptrdiff_t(1 + inner * (i + 1) / stretches);
    const auto [low, high] = std::minmax_element(
        begin, end, [](const TrainingPoint& a, const TrainingPoint& b) { return rank_of(a) < rank_of(b); });
    kept.push_back(*std::min(low, high));
    if (low != high) kept.push_back(*std::max(low, high));
  }
  kept.push_back(points.back());
  return kept;
}

Json to_json(const TrainingCurve& curve) {
  Json json = Json::object();
  json["command"] = curve.command;
  json["loss_name"] = curve.loss_name;
  json["steps"] = Json(curve.steps);
  json["input_tokens"] = Json(curve.input_tokens);
  json["seconds"] = curve.seconds;
  json["tokens_per_second"] = curve.tokens_per_second;
  json["peak_share"] = curve.peak_share;
  json["loss"] = points_to_json(curve.loss);
  json["cross_entropy"] = points_to_json(curve.cross_entropy);
  json["validation"] = points_to_json(curve.validation);
  json["validation_loss"] = points_to_json(curve.validation_loss);
  return json;
}

Result<TrainingCurve> training_curve_from_json(const Json& json, std::string_view path,
                                               const std::string& where) {
  TrainingCurve curve;
  JsonFields fields(json, path, where);
  curve.command = fields.text("command");
  curve.loss_name = fields.text("loss_name");
  curve.steps = fields.count("steps");
  curve.input_tokens = fields.count("input_tokens");
  curve.seconds = fields.real("seconds");
  curve.tokens_per_second = fields.real("tokens_per_second");
  curve.peak_share = fields.real("peak_share");
  curve.loss = read_points(fields, "loss");
  curve.cross_entropy = read_points(fields, "cross_entropy");
  curve.validation = read_points(fields, "validation");
  curve.validation_loss = read_points(fields, "validation_loss");
  if (fields.error()) return *std::move(fields.error());
  return curve;
}

}  // namespace pare
