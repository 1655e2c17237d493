// One function per level: the same source, compiled for its vectors.
#include "calibrate/column_sweep.h"
#include "engine/core/assert.h"

namespace pare {
namespace {

// kWidth: floats of one vector. Written with vectors, since the compiler finds worse ones by itself.
template <int kWidth>
inline __attribute__((always_inline)) void subtract_body(float* __restrict values,
                                                         const float* __restrict errors,
                                                         const float* __restrict upper, int64_t count) {
  using Vector [[gnu::vector_size(kWidth * sizeof(float)), gnu::aligned(4), gnu::may_alias]] = float;
  constexpr int kParts = kLanes / kWidth;
  Vector e[size_t{kParts}];
  for (int part = 0; part < kParts; ++part) e[part] = reinterpret_cast<const Vector*>(errors)[part];
  for (int64_t j = 0; j < count; ++j) {
    Vector* column = reinterpret_cast<Vector*>(values + j * kLanes);
    for (int part = 0; part < kParts; ++part) column[part] = column[part] - e[part] * upper[j];
  }
}

#define PARE_LANE_SUBTRACT(name, width, attributes)                                                        \
  attributes void subtract_##name(float* values, const float* errors, const float* upper, int64_t count) { \
    subtract_body<width>(values, errors, upper, count);                                                    \
  }

PARE_LANE_SUBTRACT(generic, 4, )
#if defined(__x86_64__)
PARE_LANE_SUBTRACT(avx2, 8, __attribute__((target("avx2"))))
PARE_LANE_SUBTRACT(avx512, 16, __attribute__((target("avx512f,avx512vl"))))
#endif
#undef PARE_LANE_SUBTRACT

}  // namespace

LaneSubtract lane_subtract(VectorLevel level) {
#if defined(__x86_64__)
  if (level == VectorLevel::avx512) return subtract_avx512;
  if (level == VectorLevel::avx2) return subtract_avx2;
#endif
  PARE_ASSERT(level == VectorLevel::generic, "[lanes] level {} on this machine", int(level));
  return subtract_generic;
}

}  // namespace pare
