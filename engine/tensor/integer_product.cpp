#include "engine/tensor/integer_product.h"

#include <fmt/core.h>

#include <cfloat>
#include <cmath>
#include <limits>

namespace pare {
namespace {

using Offset = QuantScheme::Offset;
using Range = QuantScheme::Range;

// Largest |code - zero| of either side.
int64_t largest_weight(const QuantScheme& scheme) {
  if (!scheme.is_symmetric()) return scheme.code_count() - 1;
  return scheme.range == Range::narrow ? scheme.symmetric_zero_point() - 1 : scheme.symmetric_zero_point();
}
int64_t largest_activation(const ActivationQuant& activation) {
  return activation.symmetric ? activation.highest_code()
                              : activation.highest_code() - activation.lowest_code();
}

}  // namespace

Status check_integer_product(const QuantScheme& scheme, const ActivationQuant& activation,
                             bool has_group_index) {
  const char* what = nullptr;
  if (scheme.kind != QuantScheme::Kind::integer || scheme.offset == Offset::minimum)
    what = "no integer product for these codes; store the weight without rounded activations";
  if (has_group_index) what = "no integer product for groups in another order of columns";
  if (activation.bits != 8) what = "integer products take 8-bit activations";
  if (what == nullptr) return {};
  return Error{.exit = Exit::unsupported,
               .rule = "PK20",
               .where = "activation",
               .what = what,
               .got = fmt::format("{}, {}", scheme.text(), activation.text()),
               .limit = "int2 to int8, symmetric or with zero points, int8 activations",
               .limit_label = "expected"};
}

IntegerSegments::IntegerSegments(const QuantScheme& scheme, const ActivationQuant& activation,
                                 int64_t in_features)
    : in(in_features),
      group_width(std::max<int64_t>(1, std::min(scheme.group_width(in_features), in_features))),
      groups(scheme.groups(in_features)) {
  const int64_t bound = int64_t{std::numeric_limits<int32_t>::max()} /
                        (largest_weight(scheme) * largest_activation(activation));
  widest = bound / 64 * 64;  // never below 33 024: both sides have at most 8 bits
  per_group = (group_width + widest - 1) / widest;
  const int64_t last = in - (groups - 1) * group_width;
  count = (groups - 1) * per_group + (last + widest - 1) / widest;
}

RoundedRow activation_grid(const ActivationQuant& activation, float low, float high) {
  if (activation.mode == ActivationQuant::Mode::static_tensor)
    return {.scale = activation.scale, .zero_point = activation.zero_point};
  const float largest = std::max(-low, high);
  if (activation.symmetric) {
    if (largest == 0.0f) return {};
    return {.scale = std::max(largest / float(activation.highest_code()), FLT_MIN), .zero_point = 0};
  }
  const int bottom = activation.lowest_code(), steps = activation.highest_code() - bottom;
  if (largest == 0.0f) return {.scale = 1.0f, .zero_point = 0};
  // In double: the width of the range may exceed the largest float.
  const float scale = std::max(float((double(high) - double(low)) / double(steps)), FLT_MIN);
  const double zero = std::rint(-double(low) / double(scale));
  return {.scale = scale, .zero_point = int(std::clamp(zero, 0.0, double(steps))) + bottom};
}

RoundedRow round_activations(const ActivationQuant& activation, const float* x, int64_t count,
                             int8_t* codes) {
  float low = 0.0f, high = 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(x[i])) {
      std::fill_n(codes, count, int8_t{0});
      return {.scale = std::numeric_limits<float>::quiet_NaN(), .zero_point = 0};
    }
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
  }
  const RoundedRow row = activation_grid(activation, low, high);
  for (int64_t i = 0; i < count; ++i) {
    // Clamped before the zero point is added, which is the same for integers and keeps the value small.
    const float bottom = float(activation.lowest_code() - row.zero_point);
    const float top = float(activation.highest_code() - row.zero_point);
    codes[i] = int8_t(int(std::rint(std::clamp(x[i] / row.scale, bottom, top))) + row.zero_point);
  }
  return row;
}

}  // namespace pare
