// engine/backends/cuda/selection_keys.h: scores as integers that rise with them, and a row's mask from a cut.
// Internal to the selection kernels.
#pragma once

#include "engine/backends/cuda/kernel.h"
#include "engine/core/assert.h"
#include "engine/tensor/selection_backend.h"

namespace pare::cuda {

// Bits of a float >= 0 rise with its value; -0 becomes +0.
template <typename T>
__device__ __forceinline__ uint32_t selection_key(const T* row, const float* norms, int64_t column) {
  float score = fabsf(to_float(row[column]));
  if (norms != nullptr) score = __fmul_rn(score, norms[column]);
  const uint32_t bits = __float_as_uint(score);
  return bits == 0x80000000u ? 0u : bits;
}

// Keys below `limit` go, and the first `ties` of those equal to it. A limit of 2^32 takes everything.
struct SelectionCut {
  uint64_t limit;
  int64_t ties;
};
constexpr uint64_t kEverything = uint64_t{1} << 32;

constexpr int kSelectThreads = 256;
constexpr int kSelectWarps = kSelectThreads / 32;

// Sum of `value` over the threads before this one; kSelectThreads threads. `total` (may be null): over all.
template <typename T>
__device__ __forceinline__ T block_sum_before(T value, T* total) {
  __shared__ T warps[kSelectWarps];
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  T sum = value;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const T other = __shfl_up_sync(kAllLanes, sum, unsigned(offset));
    if (lane >= offset) sum += other;
  }
  __syncthreads();  // warps may still be read by the call before
  if (lane == 31) warps[warp] = sum;
  __syncthreads();
  T before = sum - value, all = 0;
#pragma unroll
  for (int w = 0; w < kSelectWarps; ++w) {
    if (w < warp) before += warps[w];
    all += warps[w];
  }
  if (total != nullptr) *total = all;
  return before;
}

// The bits of a row; key(column) is asked for columns inside. Every warp takes a run of whole words, so that
// ties are numbered by counting votes.
template <typename Key>
__device__ __forceinline__ void write_row_mask(Key key, int64_t columns, const SelectionCut& cut,
                                               uint8_t* mask) {
  __shared__ int64_t equal[kSelectWarps];
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int64_t words = (columns + 31) / 32, row_bytes = (columns + 7) / 8;
  const int64_t first = words * warp / kSelectWarps, last = words * (warp + 1) / kSelectWarps;
  int64_t rank = 0;  // of the next tie of this warp
  if (cut.ties > 0) {
    int64_t own = 0;
    for (int64_t w = first; w < last; ++w) {
      const int64_t column = w * 32 + lane;
      own += column < columns && key(column) == cut.limit ? 1 : 0;
    }
    own = warp_sum(own);
    if (lane == 0) equal[warp] = own;
    __syncthreads();
    for (int w = 0; w < warp; ++w) rank += equal[w];
  }
  for (int64_t w = first; w < last; ++w) {
    const int64_t column = w * 32 + lane;
    const bool is_inside = column < columns;
    const uint32_t own = is_inside ? key(column) : 0;
    bool is_kept = is_inside && own >= cut.limit;
    if (cut.ties > 0) {
      const uint32_t ties = __ballot_sync(kAllLanes, is_inside && own == cut.limit);
      if (is_inside && own == cut.limit) is_kept = rank + __popc(ties & ((1u << lane) - 1)) >= cut.ties;
      rank += __popc(ties);
    }
    const uint32_t word = __ballot_sync(kAllLanes, is_kept);
    if (lane < 4 && w * 4 + lane < row_bytes) mask[w * 4 + lane] = uint8_t(word >> (8 * lane));
  }
}

// Calls run(pointer of the type of `dtype`).
template <typename Run>
void with_weights(const void* weight, DType dtype, Run run) {
  if (dtype == DType::f32) return run(static_cast<const float*>(weight));
  if (dtype == DType::bf16) return run(static_cast<const __nv_bfloat16*>(weight));
  PARE_ASSERT(dtype == DType::f16, "[selection] weights of type {}", dtype_name(dtype));
  run(static_cast<const __half*>(weight));
}

}  // namespace pare::cuda
