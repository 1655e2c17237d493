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

#undef PARE_INLINE

// One function per level: the same source, compiled for its vectors.
#define PARE_LANE_KERNELS(name, constant, attributes)                                                \
  attributes void round_##name(const float* values, const LaneGrids& grids, float bottom, float top, \
                               int32_t* codes, float* restored) {                                    \
    round_body(values, grids, bottom, top, codes, restored);                                         \
  }                                                                                                  \
  constexpr LaneKernels constant{round_##name};

PARE_LANE_KERNELS(generic, kGeneric, )
#if defined(__x86_64__)
PARE_LANE_KERNELS(avx2, kAvx2, __attribute__((target("avx2"))))
PARE_LANE_KERNELS(avx512, kAvx512, __attribute__((target("avx512f,avx512vl"))))
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
