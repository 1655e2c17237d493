// engine/backends/cuda/kernel.h: what kernel files share: reductions, conversions, wide loads.
//
// The same files compile as host C++ against tests/cuda_emulator, so: no <<< >>>, dynamic shared memory
// through PARE_SHARED_BYTES, inline assembly in ptx.h only.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "engine/backends/cuda/ptx.h"

// Dynamic shared memory of the block, aligned to 128 bytes.
#ifdef PARE_CUDA_EMULATOR
#define PARE_SHARED_BYTES(name) unsigned char* name = ::emulator::shared_bytes()
#else
#define PARE_SHARED_BYTES(name) extern __shared__ __align__(128) unsigned char name[]
#endif

namespace pare::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

// Sums and maxima in a tree that depends on nothing but the block size: the same bits every time. Every
// thread of the warp, or of the block, takes part and gets the result.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}
template <typename T>
__device__ __forceinline__ T warp_max(T value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, value, offset);
    value = value < other ? other : value;
  }
  return value;
}

namespace detail {

template <typename T, typename Combine>
__device__ __forceinline__ T block_reduce(T value, T identity, Combine combine) {
  __shared__ T partial[32];
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, warps = int(blockDim.x) / 32;
  value = combine(value);
  __syncthreads();  // partial may still be read by the reduction before
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  return combine(lane < warps ? partial[lane] : identity);
}

}  // namespace detail

// Blocks are one-dimensional, of whole warps, at most 1024 threads.
template <typename T>
__device__ __forceinline__ T block_sum(T value) {
  return detail::block_reduce(value, T(0), [](T x) { return warp_sum(x); });
}
template <typename T>
__device__ __forceinline__ T block_max(T value, T lowest) {
  return detail::block_reduce(value, lowest, [](T x) { return warp_max(x); });
}

// Two floats as bf16, rounded to nearest even; `low` in the low half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const uint32_t first = __bfloat16_as_ushort(__float2bfloat16_rn(low));
  return first | uint32_t(__bfloat16_as_ushort(__float2bfloat16_rn(high))) << 16;
}
__device__ __forceinline__ float bf16_low(uint32_t pair) {
  return __uint_as_float(pair << 16);
}
__device__ __forceinline__ float bf16_high(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

// Element of f32, bf16 or f16 as float.
__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ __forceinline__ float to_float(__half x) {
  return __half2float(x);
}

}  // namespace pare::cuda
