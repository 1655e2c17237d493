#include "quantize/grid.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "engine/core/assert.h"
#include "engine/tensor/float_formats.h"

namespace pare {
namespace {

struct ScaleRange {
  float smallest, smallest_normal, largest;
};

ScaleRange scale_range(DType dtype) {
  switch (dtype) {
    case DType::f16:
      return {5.9604645e-08f, 6.103515625e-05f, 65504.0f};
    case DType::bf16:
      return {bf16_to_float(1), std::numeric_limits<float>::min(), bf16_to_float(0x7f7f)};
    default:
      return {std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::min(),
              std::numeric_limits<float>::max()};
  }
}

// The largest scale with which no code of a symmetric scheme stands for an infinity: weights near the largest
// float would ask for more, since scales are rounded and the full range reaches beyond the largest weight.
double finite_cap(const QuantScheme& scheme) {
  if (scheme.kind != QuantScheme::Kind::integer || !scheme.is_symmetric()) return INFINITY;
  const bool is_narrow = scheme.range == QuantScheme::Range::narrow;
  const int top = scheme.symmetric_zero_point() - (is_narrow ? 1 : 0);
  const double slack = scheme.scale_dtype == DType::f32 ? 0x1p-23 : 0x1p-7;  // more than one rounding
  return double(std::numeric_limits<float>::max()) / top * (1.0 - slack);
}

// Rounds a positive scale to the storage type, or to the nearest end of its range with the fault named.
FittedGrid with_scale(const QuantScheme& scheme, double scale) {
  FittedGrid fitted;
  const ScaleRange range = scale_range(scheme.scale_dtype);
  scale = std::min(scale, finite_cap(scheme));
  if (scale < range.smallest_normal) {
    fitted.fault = scale < range.smallest ? ScaleFault::too_small : ScaleFault::raised;
    fitted.grid.scale = range.smallest_normal;
  } else if (scale > range.largest) {
    fitted.fault = ScaleFault::too_large;
    fitted.grid.scale = range.largest;
  } else {
    fitted.grid.scale = std::min(round_to(scheme.scale_dtype, float(scale)), range.largest);
  }
  return fitted;
}

double symmetric_steps(const QuantScheme& scheme) {
  const int top = scheme.symmetric_zero_point() - 1;
  return scheme.range == QuantScheme::Range::narrow ? double(top) : double(scheme.code_count() - 1) / 2.0;
}

FittedGrid fit_minimum(const QuantScheme& scheme, float low, float high) {
  FittedGrid fitted;
  const double width = double(high) - double(low);
  if (width > 0.0 && width >= std::numeric_limits<float>::min()) {
    fitted = with_scale(scheme, width / (scheme.code_count() - 1));
  }
  fitted.grid.minimum = round_to(scheme.scale_dtype, low);
  if (!std::isfinite(fitted.grid.minimum)) {
    fitted.fault = ScaleFault::too_large;
    fitted.grid.minimum = std::copysign(scale_range(scheme.scale_dtype).largest, low);
  }
  return fitted;
}

// Half-to-even rounding that vectorises without SSE4.1: valid for |x| < 2^22, which the callers' clamps
// guarantee.
inline float round_half_even(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  return (x + kMagic) - kMagic;
}

inline float clamped_ratio(float value, float scale) {
  return std::clamp(value / scale, -1048576.0f, 1048576.0f);
}

// Position of the code nearest to `ratio`; on a midpoint the smaller index.
uint8_t nearest_code(std::span<const float, 16> table, float ratio) {
  uint8_t code = 0;
  for (size_t i = 0; i + 1 < table.size(); ++i) {
    const float midpoint = (table[i] + table[i + 1]) * 0.5f;
    code = uint8_t(code + (ratio > midpoint ? 1 : 0));
  }
  return code;
}

void encode_affine(const QuantScheme& scheme, const Grid& grid, std::span<const float> group,
                   uint8_t* codes) {
  const float zero = float(grid.zero_point);
  const float top = float(scheme.code_count() - 1);
  // The narrow range leaves out code 0, so that both ends are equally far from zero.
  const bool is_narrow = scheme.is_symmetric() && scheme.range == QuantScheme::Range::narrow;
  const float bottom = is_narrow ? 1.0f : 0.0f;
  const float minimum = grid.minimum, scale = grid.scale;
  for (size_t i = 0; i < group.size(); ++i) {
    const float rounded = round_half_even(clamped_ratio(group[i] - minimum, scale)) + zero;
    codes[i] = uint8_t(int(std::clamp(rounded, bottom, top)));
  }
}

}  // namespace

float round_to(DType dtype, float value) {
  switch (dtype) {
    case DType::f16:
      return f16_to_float(float_to_f16(value));
    case DType::bf16:
      return bf16_to_float(float_to_bf16(value));
    default:
      return value;
  }
}

FittedGrid fit_range(const QuantScheme& scheme, float low, float high) {
  if (scheme.kind == QuantScheme::Kind::integer && scheme.offset == QuantScheme::Offset::minimum) {
    return fit_minimum(scheme, low, high);
  }
  low = std::min(low, 0.0f);
  high = std::max(high, 0.0f);
  const float largest = std::max(-low, high);
  FittedGrid fitted;
  const bool is_zero = largest < std::numeric_limits<float>::min();  // zeros or subnormals only
  if (scheme.kind == QuantScheme::Kind::codebook) {
    if (!is_zero) fitted = with_scale(scheme, largest);
    return fitted;
  }
  if (scheme.kind == QuantScheme::Kind::floating) {
    const double top = scheme.float_type == DType::f8_e5m2 ? 57344.0 : 448.0;
    if (!is_zero) fitted = with_scale(scheme, double(largest) / top);
    return fitted;
  }
  if (scheme.is_symmetric()) {
    if (!is_zero) fitted = with_scale(scheme, double(largest) / symmetric_steps(scheme));
    fitted.grid.zero_point = scheme.symmetric_zero_point();
    return fitted;
  }
  if (!is_zero) {
    const int top = scheme.code_count() - 1;
    fitted = with_scale(scheme, (double(high) - double(low)) / top);
    const double zero = std::nearbyint(-double(low) / double(fitted.grid.scale));
    fitted.grid.zero_point = int(std::clamp(zero, 0.0, double(top)));
  }
  return fitted;
}

FittedGrid fit_min_max(const QuantScheme& scheme, std::span<const float> group) {
  PARE_ASSERT(!group.empty(), "[grid] empty group");
  const auto [low, high] = std::minmax_element(group.begin(), group.end());
  return fit_range(scheme, *low, *high);
}

void encode(const QuantScheme& scheme, const Grid& grid, std::span<const float> group, uint8_t* codes) {
  switch (scheme.kind) {
    case QuantScheme::Kind::integer:
      encode_affine(scheme, grid, group, codes);
      return;
    case QuantScheme::Kind::floating:
      for (size_t i = 0; i < group.size(); ++i) {
        const float ratio = group[i] / grid.scale;
        codes[i] = scheme.float_type == DType::f8_e5m2 ? float_to_f8_e5m2(ratio) : float_to_f8_e4m3(ratio);
      }
      return;
    case QuantScheme::Kind::codebook:
      PARE_ASSERT(scheme.codebook == "nf4", "[grid] codebook {} has no fixed table", scheme.codebook);
      for (size_t i = 0; i < group.size(); ++i)
        codes[i] = nearest_code(nf4_codebook(), group[i] / grid.scale);
      return;
  }
}

void decode(const QuantScheme& scheme, const Grid& grid, std::span<const uint8_t> codes, float* out) {
  switch (scheme.kind) {
    case QuantScheme::Kind::integer:
      if (scheme.offset == QuantScheme::Offset::minimum) {
        for (size_t i = 0; i < codes.size(); ++i) out[i] = grid.minimum + grid.scale * float(codes[i]);
      } else {
        for (size_t i = 0; i < codes.size(); ++i)
          out[i] = grid.scale * float(int(codes[i]) - grid.zero_point);
      }
      return;
    case QuantScheme::Kind::floating:
      for (size_t i = 0; i < codes.size(); ++i) {
        const float value =
            scheme.float_type == DType::f8_e5m2 ? f8_e5m2_to_float(codes[i]) : f8_e4m3_to_float(codes[i]);
        out[i] = grid.scale * value;
      }
      return;
    case QuantScheme::Kind::codebook:
      for (size_t i = 0; i < codes.size(); ++i) out[i] = grid.scale * nf4_codebook()[codes[i]];
      return;
  }
}

}  // namespace pare
