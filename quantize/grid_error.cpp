#include "quantize/grid_error.h"

#include <algorithm>

#include "engine/core/assert.h"

namespace pare {
namespace {

constexpr int kLanes = 16;

struct AffineGrid {
  float scale, inverse, minimum, zero, bottom, top;
};

inline __attribute__((always_inline)) double error_body(const float* values, const float* importance,
                                                        int64_t count, const AffineGrid& grid) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding and subtracting it rounds half to even
  const AffineGrid g = grid;
  float sums[kLanes] = {};
  for (int64_t i = 0; i < count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float value = values[i + lane];
      float ratio = (value - g.minimum) * g.inverse;
      ratio = ratio < -1048576.0f ? -1048576.0f : ratio;
      ratio = ratio > 1048576.0f ? 1048576.0f : ratio;
      float code = (ratio + kMagic) - kMagic + g.zero;
      code = code < g.bottom ? g.bottom : code;
      code = code > g.top ? g.top : code;
      const float difference = g.minimum + g.scale * (code - g.zero) - value;
      sums[lane] += importance[i + lane] * (difference * difference);
    }
  }
  double total = 0.0;
  for (const float sum : sums) total += double(sum);
  return total;
}

using ErrorFunction = double (*)(const float*, const float*, int64_t, const AffineGrid&);

double error_generic(const float* values, const float* importance, int64_t count, const AffineGrid& grid) {
  return error_body(values, importance, count, grid);
}
#if defined(__x86_64__)
__attribute__((target("avx2"))) double error_avx2(const float* values, const float* importance, int64_t count,
                                                  const AffineGrid& grid) {
  return error_body(values, importance, count, grid);
}
__attribute__((target("avx512f,avx512vl"))) double error_avx512(const float* values, const float* importance,
                                                                int64_t count, const AffineGrid& grid) {
  return error_body(values, importance, count, grid);
}
#endif

ErrorFunction function_of(VectorLevel level) {
#if defined(__x86_64__)
  if (level == VectorLevel::avx512) return error_avx512;
  if (level == VectorLevel::avx2) return error_avx2;
#endif
  PARE_ASSERT(level == VectorLevel::generic, "[grid_error] level {} on this machine", int(level));
  return error_generic;
}

}  // namespace

PaddedGroup::PaddedGroup(std::span<const float> values, std::span<const float> importance)
    : size_((int64_t(values.size()) + kLanes - 1) / kLanes * kLanes), storage_(size_t(2 * size_), 0.0f) {
  std::copy(values.begin(), values.end(), storage_.begin());
  if (importance.empty()) {
    std::fill_n(storage_.begin() + size_, values.size(), 1.0f);
  } else {
    std::copy(importance.begin(), importance.end(), storage_.begin() + size_);
  }
}

double squared_error(const QuantScheme& scheme, const Grid& grid, const PaddedGroup& group,
                     VectorLevel level) {
  const bool is_narrow = scheme.is_symmetric() && scheme.range == QuantScheme::Range::narrow;
  const AffineGrid affine{.scale = grid.scale,
                          .inverse = 1.0f / grid.scale,
                          .minimum = grid.minimum,
                          .zero = float(grid.zero_point),
                          .bottom = is_narrow ? 1.0f : 0.0f,
                          .top = float(scheme.code_count() - 1)};
  return function_of(level)(group.values(), group.importance(), group.size(), affine);
}

}  // namespace pare
