#include "quantize/lanes.h"

#include "engine/core/assert.h"

namespace pare {
namespace {

#define PARE_INLINE inline __attribute__((always_inline))

PARE_INLINE void round_body(const float* __restrict values, const LaneGrids& grids, float bottom, float top,
                            int32_t* __restrict codes, float* __restrict restored) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding and subtracting it rounds half to even
  for (int lane = 0; lane < kLanes; ++lane) {
    const float minimum = grids.minimum[lane], scale = grids.scale[lane], zero = grids.zero[lane];
    float ratio = (values[lane] - minimum) / scale;
    ratio = ratio < -1048576.0f ? -1048576.0f : ratio;
    ratio = ratio > 1048576.0f ? 1048576.0f : ratio;
    float code = ((ratio + kMagic) - kMagic) + zero;
    code = code > bottom ? code : bottom;  // also of NaN: lanes without a row divide zero by zero
    code = code > top ? top : code;
    codes[lane] = int32_t(code);
    restored[lane] = minimum + scale * (code - zero);
  }
}

// kWidth: floats of one vector. Written with vectors, since the compiler finds worse ones by itself.
template <int kWidth>
PARE_INLINE void subtract_body(float* __restrict values, const float* __restrict errors,
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

#undef PARE_INLINE

// One pair of functions per level: the same source, compiled for its vectors.
#define PARE_LANE_KERNELS(name, constant, width, attributes)                                               \
  attributes void round_##name(const float* values, const LaneGrids& grids, float bottom, float top,       \
                               int32_t* codes, float* restored) {                                          \
    round_body(values, grids, bottom, top, codes, restored);                                               \
  }                                                                                                        \
  attributes void subtract_##name(float* values, const float* errors, const float* upper, int64_t count) { \
    subtract_body<width>(values, errors, upper, count);                                                    \
  }                                                                                                        \
  constexpr LaneKernels constant{round_##name, subtract_##name};

PARE_LANE_KERNELS(generic, kGeneric, 4, )
#if defined(__x86_64__)
PARE_LANE_KERNELS(avx2, kAvx2, 8, __attribute__((target("avx2"))))
PARE_LANE_KERNELS(avx512, kAvx512, 16, __attribute__((target("avx512f,avx512vl"))))
#endif
#undef PARE_LANE_KERNELS

}  // namespace

const LaneKernels& lane_kernels(VectorLevel level) {
#if defined(__x86_64__)
  if (level == VectorLevel::avx512) return kAvx512;
  if (level == VectorLevel::avx2) return kAvx2;
#endif
  PARE_ASSERT(level == VectorLevel::generic, "[lanes] level {} on this machine", int(level));
  return kGeneric;
}

}  // namespace pare
