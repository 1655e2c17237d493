// Measured speed as text and as JSON; declared in generation_speed.h.
#include <fmt/core.h>

#include <cmath>

#include "engine/core/text.h"
#include "evaluate/generation_speed.h"
#include "evaluate/json_fields.h"

namespace pare {
namespace {

// Three significant digits: "0.482", "41.2", "1840".
std::string tokens_per_second(double rate) {
  return rate >= 100.0 ? fmt::format("{:.0f}", rate) : fmt::format("{:.3g}", rate);
}

Json rate_json(const Rate& rate) {
  Json json = Json::object();
  json["median"] = rate.median;
  json["lower_quartile"] = rate.lower_quartile;
  json["upper_quartile"] = rate.upper_quartile;
  json["repetitions"] = Json(rate.repetitions);
  return json;
}

Json model_json(const ModelSpeed& speed) {
  Json json = Json::object();
  json["decode"] = rate_json(speed.decode);
  json["prefill"] = rate_json(speed.prefill);
  json["loaded_bytes"] = Json(speed.loaded_bytes);
  return json;
}

// Derived from the two, for scripts; never read back.
Json change_json(const Rate& original, const Rate& compressed) {
  Json json = Json::object();
  json["ratio"] = speed_ratio(original, compressed);
  json["outside_noise"] = is_outside_noise(original, compressed);
  return json;
}

Rate read_rate(JsonFields& fields, const char* key, std::string_view path) {
  JsonFields rate(fields.object(key), path, fmt::format("{}{}.", fields.where(), key));
  const Rate result{.median = rate.real("median"),
                    .lower_quartile = rate.real("lower_quartile"),
                    .upper_quartile = rate.real("upper_quartile"),
                    .repetitions = rate.count("repetitions")};
  for (const auto& [name, value] : {std::pair{"median", result.median},
                                    {"lower_quartile", result.lower_quartile},
                                    {"upper_quartile", result.upper_quartile}}) {
    if (std::isfinite(value) && value >= 0.0) continue;
    rate.fail(name, "RP04", "report value is out of range", fmt::format("{}", value), "0 or above, finite");
  }
  fields.absorb(rate.error());
  return result;
}

ModelSpeed read_model(JsonFields& fields, const char* key, std::string_view path) {
  JsonFields model(fields.object(key), path, fmt::format("{}{}.", fields.where(), key));
  ModelSpeed speed;
  speed.decode = read_rate(model, "decode", path);
  speed.prefill = read_rate(model, "prefill", path);
  speed.loaded_bytes = model.bytes("loaded_bytes");
  fields.absorb(model.error());
  return speed;
}

}  // namespace

std::string rate_change_text(const Rate& original, const Rate& compressed, const char* arrow) {
  const double ratio = speed_ratio(original, compressed);
  const bool is_certain = is_outside_noise(original, compressed);
  const std::string verdict = !is_certain ? "no speed-up on this device"
                              : ratio > 1.0
                                  ? fmt::format("{:.2f}x", ratio)
                                  : fmt::format("{:.2f}x, no speed-up on this device: slower", ratio);
  return fmt::format("{} {} {} tokens/s ({})", tokens_per_second(original.median), arrow,
                     tokens_per_second(compressed.median), verdict);
}

std::string speed_line(const SpeedComparison& speed) {
  return fmt::format("one token {}, prompt of {} tokens {}, weights in memory {} -> {}",
                     rate_change_text(speed.original.decode, speed.compressed.decode), speed.prompt_tokens,
                     rate_change_text(speed.original.prefill, speed.compressed.prefill),
                     format_bytes(speed.original.loaded_bytes), format_bytes(speed.compressed.loaded_bytes));
}

Json to_json(const SpeedComparison& speed) {
  Json json = Json::object();
  json["device"] = speed.device;
  json["prompt_tokens"] = Json(speed.prompt_tokens);
  json["decode_tokens"] = Json(speed.decode_tokens);
  json["original"] = model_json(speed.original);
  json["compressed"] = model_json(speed.compressed);
  json["decode"] = change_json(speed.original.decode, speed.compressed.decode);
  json["prefill"] = change_json(speed.original.prefill, speed.compressed.prefill);
  return json;
}

Result<SpeedComparison> speed_from_json(const Json& json, std::string_view path, const std::string& where) {
  JsonFields fields(json, path, where);
  SpeedComparison speed;
  speed.device = fields.text("device");
  speed.prompt_tokens = fields.count("prompt_tokens");
  speed.decode_tokens = fields.count("decode_tokens");
  speed.original = read_model(fields, "original", path);
  speed.compressed = read_model(fields, "compressed", path);
  if (fields.error()) return *std::move(fields.error());
  return speed;
}

}  // namespace pare
