#include "formats/gguf/rope.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "engine/core/text.h"
#include "formats/fault.h"

namespace pare {
namespace {

bool nearly_equal(const std::vector<float>& a, const std::vector<float>& b) {
  // Other writers compute the table in f32.
  constexpr float kTolerance = 1e-5f;
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](float x, float y) { return std::abs(x - y) <= kTolerance * std::abs(y); });
}

Json llama3_json(const RopeConfig& rope) {
  Json scaling = Json::object();
  scaling["rope_type"] = "llama3";
  scaling["factor"] = rope.factor;
  scaling["low_freq_factor"] = rope.low_frequency_factor;
  scaling["high_freq_factor"] = rope.high_frequency_factor;
  scaling["original_max_position_embeddings"] = rope.original_max_positions;
  return scaling;
}

// The settings of the published Llama 3 models with this table's largest factor, for the context lengths that
// the file may mean.
std::optional<Json> as_llama3(const std::vector<float>& factors, double theta, int64_t dim,
                              int64_t original) {
  RopeConfig rope;
  rope.kind = RopeConfig::Kind::llama3;
  rope.theta = theta;
  rope.factor = double(*std::max_element(factors.begin(), factors.end()));
  rope.low_frequency_factor = 1.0;
  rope.high_frequency_factor = 4.0;
  for (const int64_t length : {original, int64_t{8192}}) {
    if (length <= 0) continue;
    rope.original_max_positions = length;
    if (nearly_equal(llama3_rope_factors(rope, dim), factors)) return llama3_json(rope);
  }
  return std::nullopt;
}

Json as_longrope(const std::vector<float>& factors, int64_t positions) {
  Json scaling = Json::object(), list = Json::array();
  for (const float factor : factors) list.push_back(Json(double(factor)));
  scaling["rope_type"] = "longrope";
  scaling["factor"] = 1.0;
  scaling["attention_factor"] = 1.0;
  scaling["original_max_position_embeddings"] = positions;
  scaling["short_factor"] = list;
  scaling["long_factor"] = std::move(list);
  return scaling;
}

}  // namespace

Status read_gguf_rope(const GgufMetadata& metadata, const std::string& architecture, int64_t head_dim,
                      const std::vector<float>& factors, Json& config) {
  const auto key = [&](std::string_view name) { return architecture + ".rope." + std::string(name); };
  PARE_TRY(const auto theta, metadata.number(key("freq_base")));
  if (theta && !(*theta > 0.0))
    return metadata.bad(key("freq_base"), "out of range", format_double(*theta), "above 0");
  config["rope_theta"] = theta.value_or(10000.0);
  PARE_TRY(const auto dim, metadata.integer(key("dimension_count"), 2, head_dim));
  if (dim && *dim != head_dim) {
    if (architecture == "llama")
      return unsupported("GG35", metadata.path(), key("dimension_count"),
                         "heads that rotate in part are not supported", std::to_string(*dim),
                         std::to_string(head_dim));
    config["partial_rotary_factor"] = double(*dim) / double(head_dim);
  }
  PARE_TRY(const auto kind, metadata.text(key("scaling.type")));
  PARE_TRY(const auto factor, metadata.number(key("scaling.factor")));
  PARE_TRY(const auto original, metadata.integer(key("scaling.original_context_length"), 0, INT32_MAX));
  const std::string name = kind.value_or(factor ? "linear" : "none");
  if (!factors.empty()) {
    const int64_t rotating = dim.value_or(head_dim);
    if (static_cast<int64_t>(factors.size()) != rotating / 2)
      return metadata.bad("rope_freqs.weight", "wrong number of factors", std::to_string(factors.size()),
                          std::to_string(rotating / 2));
    for (const float value : factors) {
      if (!std::isfinite(value) || !(value > 0.0f))
        return metadata.bad("rope_freqs.weight", "factor out of range", fmt::format("{}", value), "above 0");
    }
    if (name != "none")
      return unsupported("GG35", metadata.path(), key("scaling.type"),
                         "scaling beside a table of factors is not supported", quote(name), "none");
    const auto llama3 = as_llama3(factors, theta.value_or(10000.0), rotating, original.value_or(0));
    config["rope_scaling"] =
        llama3 ? *llama3 : as_longrope(factors, config.find("max_position_embeddings")->as_int());
    return {};
  }
  if (name == "none") return {};
  if (name != "linear" && name != "yarn")
    return unsupported("GG35", metadata.path(), key("scaling.type"), "rope scaling is not supported",
                       quote(name), "none, linear, yarn");
  if (!factor || !(*factor > 0.0)) return metadata.missing(key("scaling.factor"));
  Json scaling = Json::object();
  scaling["rope_type"] = name;
  scaling["factor"] = *factor;
  if (name == "yarn") {
    if (original.value_or(0) > 0) scaling["original_max_position_embeddings"] = *original;
    PARE_TRY(const auto attention, metadata.number(key("scaling.attn_factor")));
    if (attention && *attention != 1.0)
      scaling["attention_factor"] = *attention * (0.1 * std::log(*factor) + 1.0);
    for (const auto& [from, to] :
         {std::pair{"scaling.yarn_beta_fast", "beta_fast"}, {"scaling.yarn_beta_slow", "beta_slow"}}) {
      PARE_TRY(const auto value, metadata.number(key(from)));
      if (value) scaling[to] = *value;
    }
  }
  config["rope_scaling"] = std::move(scaling);
  return {};
}

std::vector<float> llama3_rope_factors(const RopeConfig& rope, int64_t dim) {
  std::vector<float> factors;
  const double original = double(rope.original_max_positions);
  const double low = rope.low_frequency_factor, high = rope.high_frequency_factor;
  for (int64_t k = 0; k < dim / 2; ++k) {
    const double wavelength = 2.0 * std::numbers::pi * std::pow(rope.theta, 2.0 * double(k) / double(dim));
    double factor = 1.0;
    if (wavelength > original / low) {
      factor = rope.factor;
    } else if (wavelength >= original / high) {
      const double t = (original / wavelength - low) / (high - low);
      factor = 1.0 / ((1.0 - t) / rope.factor + t);
    }
    factors.push_back(float(factor));
  }
  return factors;
}

}  // namespace pare
