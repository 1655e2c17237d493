// The lowest scores of each row: one block per row, whose keys stay in shared memory, so that memory is read
// once. Four passes of 8 bits find the cut; each warp counts in bins of its own, since equal keys in a row
// would wait for one another.
#include "engine/backends/cuda/selection_class.h"
#include "engine/backends/cuda/selection_keys.h"

namespace pare::cuda {
namespace {

constexpr int kBins = 256;
static_assert(kBins == kSelectThreads, "one thread sums one bin");
constexpr int64_t kMostKept =
    22 * 1024;  // 88 KiB, and 9 KiB of bins: every chip from compute capability 8.0 on has 99 KiB

// The cut behind key number `count` (from 0).
template <typename Key>
__device__ SelectionCut row_cut(Key key, int64_t columns, int64_t count) {
  __shared__ uint32_t bins[kSelectWarps][kBins];
  __shared__ uint32_t found_bin;
  __shared__ int64_t found_below;
  const int thread = int(threadIdx.x), warp = thread / 32;
  uint32_t prefix = 0;
  int64_t left = count;
#pragma unroll 1
  for (int shift = 24; shift >= 0; shift -= 8) {
#pragma unroll
    for (int w = 0; w < kSelectWarps; ++w) bins[w][thread] = 0;
    __syncthreads();
    for (int64_t c = thread; c < columns; c += kSelectThreads) {
      const uint32_t own = key(c);
      if (shift == 24 || own >> (shift + 8) == prefix) atomicAdd(&bins[warp][own >> shift & 255u], 1u);
    }
    __syncthreads();
    int64_t sum = 0;
#pragma unroll
    for (int w = 0; w < kSelectWarps; ++w) sum += bins[w][thread];
    const int64_t before = block_sum_before(sum, static_cast<int64_t*>(nullptr));
    if (before <= left && left < before + sum) found_bin = uint32_t(thread), found_below = before;
    __syncthreads();
    prefix = prefix << 8 | found_bin;
    left -= found_below;
  }
  return {prefix, left};
}

template <typename T, bool kKept>
__global__ void __launch_bounds__(kSelectThreads)
    select_rows_kernel(const T* weight, const float* norms, int64_t columns, int64_t stride, int64_t count,
                       uint8_t* mask) {
  PARE_SHARED_BYTES(shared);
  const int64_t row = blockIdx.x;
  const T* line = weight + row * stride;
  [[maybe_unused]] auto* keys = reinterpret_cast<uint32_t*>(shared);
  if constexpr (kKept) {
    for (int64_t c = threadIdx.x; c < columns; c += kSelectThreads) keys[c] = selection_key(line, norms, c);
    __syncthreads();
  }
  const auto key = [&](int64_t c) -> uint32_t {
    if constexpr (kKept) return keys[c];
    return selection_key(line, norms, c);
  };
  SelectionCut cut{kEverything, 0};
  if (count < columns) cut = row_cut(key, columns, count);
  write_row_mask(key, columns, cut, mask + row * ((columns + 7) / 8));
}

}  // namespace

void CudaSelection::select_rows(const SelectRowsArgs& a) {
  const SelectionScores& s = a.scores;
  with_weights(s.weight, s.dtype, [&](const auto* weight) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(weight)>>;
    const bool is_kept = s.columns <= kMostKept;
    context_.launch("select_rows", is_kept ? select_rows_kernel<T, true> : select_rows_kernel<T, false>,
                    {.grid = blocks_for(s.rows, 1),
                     .block = kSelectThreads,
                     .shared_bytes = is_kept ? size_t(s.columns) * sizeof(uint32_t) : 0},
                    weight, s.norms, s.columns, s.stride, a.count < 0 ? 0 : a.count, a.mask);
  });
}

}  // namespace pare::cuda
