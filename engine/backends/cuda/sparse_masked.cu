// Products with any weights kept, one warp per row: a lane per column, 32 columns per word of the mask. The
// kept values of a word are neighbours, so its loads are coalesced; four words are under way at once. Inputs
// stay floats in either math mode: there are no tensor cores to feed.
#include "engine/backends/cuda/sparse_kernels.h"

namespace pare::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRows = kThreads / kWarp;
constexpr int kWords = 4;  // of a load of the mask

// visit(column, value or 0) over the columns of a row in steps of 32, this lane's column of each; the whole
// warp takes part. Beyond the last column nothing is kept.
template <SparseStored kStored, typename Visit>
__device__ __forceinline__ void for_row(const SparseProblem& p, int64_t row, Visit visit) {
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t words = (p.k + 127) / 128 * kWords;
  const auto* masks = reinterpret_cast<const uint4*>(p.codes + row * words * 4);
  const uint8_t* values = p.codes + p.starts[row];
  const uint32_t before = (1u << lane) - 1;
  int64_t taken = 0;
  [[maybe_unused]] int64_t group = 0, left = 0;  // columns of the group from this lane's on
  [[maybe_unused]] SparseGrid grid{};
  if constexpr (kIsCode<kStored>) {
    group = lane / p.group_width;
    left = p.group_width - lane % p.group_width;
    if (group < p.groups) grid = sparse_grid(p, row, group);
  }
  for (int64_t w = 0; w < words; w += kWords) {
    const uint4 four = masks[w / kWords];
    const uint32_t mask[kWords] = {four.x, four.y, four.z, four.w};
    float value[kWords];
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      value[i] = 0.0f;
      if (mask[i] >> lane & 1) value[i] = stored_value<kStored>(values, taken + __popc(mask[i] & before));
      taken += __popc(mask[i]);
    }
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const bool is_kept = (mask[i] >> lane & 1) != 0;
      if constexpr (kIsCode<kStored>) {
        if (is_kept) value[i] = grid.weight(value[i]);
        left -= kWarp;
        if (left <= 0) {
          const int64_t steps = -left / p.group_width + 1;
          group += steps, left += steps * p.group_width;
          if (group < p.groups) grid = sparse_grid(p, row, group);
        }
      }
      visit((w + i) * kWarp + lane, value[i], is_kept);
    }
  }
}

template <SparseStored kStored, int kTokens>
__global__ void __launch_bounds__(kThreads) masked_vector_kernel(SparseProblem p) {
  const int64_t row = int64_t(blockIdx.x) * kRows + int(threadIdx.x) / kWarp;
  if (row >= p.n) return;  // whole warps
  const int64_t first = int64_t(blockIdx.y) * kTokens;
  const float* x[kTokens];
#pragma unroll
  for (int m = 0; m < kTokens; ++m) x[m] = p.x + (first + m < p.m ? first + m : p.m - 1) * p.x_stride;
  float sums[kTokens] = {};
  for_row<kStored>(p, row, [&](int64_t column, float value, bool is_kept) {
    if (!is_kept) return;
#pragma unroll
    for (int m = 0; m < kTokens; ++m) sums[m] = fmaf(x[m][column], value, sums[m]);
  });
#pragma unroll
  for (int m = 0; m < kTokens; ++m) {
    const float total = warp_sum(sums[m]);
    if (int(threadIdx.x) % kWarp == m && first + m < p.m) sparse_store(p, first + m, row, total);
  }
}

template <SparseStored kStored, typename Out>
__global__ void __launch_bounds__(kThreads) masked_expand_kernel(SparseProblem p, Out* dense) {
  const int64_t row = int64_t(blockIdx.x) * kRows + int(threadIdx.x) / kWarp;
  if (row >= p.n) return;
  Out* line = dense + row * p.k;
  for_row<kStored>(p, row, [&](int64_t column, float value, bool) {
    if (column < p.k) line[column] = Out(value);
  });
}

}  // namespace

void launch_masked_vector(Context& context, const SparseForm& form, const SparseProblem& p) {
  with_stored(form.stored, [&]<SparseStored kStored>() {
    const auto launch = [&](auto kernel, int64_t tokens) {
      context.launch("sparse_masked", kernel,
                     {.grid = dim3(blocks_for(p.n, kRows), blocks_for(p.m, tokens)), .block = kThreads}, p);
    };
    if (p.m == 1) return launch(masked_vector_kernel<kStored, 1>, 1);
    if (p.m <= 4) return launch(masked_vector_kernel<kStored, 4>, 4);
    launch(masked_vector_kernel<kStored, 8>, 8);
  });
}

void launch_masked_expand(Context& context, const SparseForm& form, const SparseProblem& p, DType dtype,
                          void* dense) {
  with_stored(form.stored, [&]<SparseStored kStored>() {
    const LaunchShape shape{.grid = blocks_for(p.n, kRows), .block = kThreads};
    if (dtype == DType::f32) {
      context.launch("sparse_expand", masked_expand_kernel<kStored, float>, shape, p,
                     static_cast<float*>(dense));
    } else if (dtype == DType::bf16) {
      context.launch("sparse_expand", masked_expand_kernel<kStored, __nv_bfloat16>, shape, p,
                     static_cast<__nv_bfloat16*>(dense));
    } else {
      context.launch("sparse_expand", masked_expand_kernel<kStored, __half>, shape, p,
                     static_cast<__half*>(dense));
    }
  });
}

}  // namespace pare::cuda
