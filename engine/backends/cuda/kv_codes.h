// engine/backends/cuda/kv_codes.h: keys and values as codes, by one warp per vector. Codes and scales are
// those of kv_encode() (kv_quant.h) to the bit: the same operations in the same precision, with IEEE
// division.
#pragma once

#include "engine/backends/cuda/context.h"
#include "engine/backends/cuda/kernel.h"
#include "engine/tensor/kv_quant.h"

namespace pare::cuda {

constexpr float kKvCentre = 128.0f;  // zero of int8
constexpr uint16_t kKvNotANumber = 0x7e00;

struct KvGrid {
  uint16_t scale;
  bool is_finite;
  float step, zero;  // zero: the code of 0, without the centre of int8
};

// The grid of a vector, the same in all lanes.
template <bool Int8>
__device__ KvGrid kv_grid(const float* x, int64_t head_dim) {
  constexpr uint16_t kOne = 0x3c00, kSmallestNormal = 0x0400, kLargest = 0x7bff;
  float low = 0.0f, high = 0.0f;
  bool is_finite = true;
  for (int64_t d = int(threadIdx.x) % kWarp; d < head_dim; d += kWarp) {
    const float value = x[d];
    low = value < low ? value : low;
    high = value > high ? value : high;
    is_finite = is_finite && fabsf(value) < INFINITY;
  }
  low = -warp_max(-low);
  high = warp_max(high);
  if (!__all_sync(kAllLanes, is_finite))
    return {.scale = kKvNotANumber, .is_finite = false, .step = 0.0f, .zero = 0.0f};
  if (low == 0.0f && high == 0.0f) return {.scale = kOne, .is_finite = true, .step = 1.0f, .zero = 0.0f};
  const double width = Int8 ? double(-low > high ? -low : high) / 127.0 : (double(high) - double(low)) / 15.0;
  const float rounded = float(width < 65504.0 ? width : 65504.0);
  uint16_t scale = __half_as_ushort(__float2half_rn(rounded));
  scale = scale < kSmallestNormal ? kSmallestNormal : scale > kLargest ? kLargest : scale;
  const float step = __half2float(__ushort_as_half(scale));
  if (Int8) return {.scale = scale, .is_finite = true, .step = step, .zero = 0.0f};
  const double zero = rint(-double(low) / double(step));
  return {.scale = scale,
          .is_finite = true,
          .step = step,
          .zero = float(zero < 0.0    ? 0.0
                        : zero > 15.0 ? 15.0
                                      : zero)};
}

// Code of one component less the code of 0, a whole number.
template <bool Int8>
__device__ __forceinline__ float kv_level(float x, const KvGrid& grid) {
  constexpr float kShift = 12582912.0f;  // adding 1.5 * 2^23 leaves the nearest integer, ties to even
  const float bottom = Int8 ? -127.0f : -grid.zero, top = Int8 ? 127.0f : 15.0f - grid.zero;
  float value = __fdiv_rn(x, grid.step);
  value = value < bottom ? bottom : value;
  value = value > top ? top : value;
  return __fadd_rn(__fadd_rn(value, kShift), -kShift);
}
template <bool Int8>
__device__ __forceinline__ uint32_t kv_code(float x, const KvGrid& grid) {
  if (!grid.is_finite) return 0;
  return uint32_t(int(kv_level<Int8>(x, grid) + (Int8 ? kKvCentre : grid.zero)));
}

// Codes, scale and zero of x to place `slot` of a cache.
template <bool Int8>
__device__ __forceinline__ void kv_encode_vector(const float* x, int64_t head_dim, uint8_t* cache,
                                                 int64_t slot, uint16_t* scales, uint8_t* zeros) {
  const int lane = int(threadIdx.x) % kWarp;
  const KvGrid grid = kv_grid<Int8>(x, head_dim);
  const int64_t half = (head_dim + 1) / 2;
  uint8_t* codes = cache + slot * (Int8 ? head_dim : half);
  if (Int8) {
    for (int64_t d = lane; d < head_dim; d += kWarp) codes[d] = uint8_t(kv_code<true>(x[d], grid));
  } else {
    for (int64_t i = lane; i < half; i += kWarp) {
      const uint32_t above = i + half < head_dim ? kv_code<false>(x[i + half], grid) : 0u;
      codes[i] = uint8_t(kv_code<false>(x[i], grid) | above << 4);
    }
  }
  if (lane != 0) return;
  scales[slot] = grid.scale;
  if (zeros != nullptr) zeros[slot] = uint8_t(!grid.is_finite ? 0 : Int8 ? int(kKvCentre) : int(grid.zero));
}
__device__ __forceinline__ void kv_encode_vector(KvQuant kv, const float* x, int64_t head_dim, uint8_t* cache,
                                                 int64_t slot, uint16_t* scales, uint8_t* zeros) {
  if (kv.kind == KvQuant::Kind::int8) {
    kv_encode_vector<true>(x, head_dim, cache, slot, scales, zeros);
  } else {
    kv_encode_vector<false>(x, head_dim, cache, slot, scales, zeros);
  }
}

}  // namespace pare::cuda
