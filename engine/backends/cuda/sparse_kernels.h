// engine/backends/cuda/sparse_kernels.h: what the kernels of sparse products share. Internal to them.
#pragma once

#include "engine/backends/cuda/context.h"
#include "engine/backends/cuda/kernel.h"
#include "engine/backends/cuda/sparse_layout.h"

namespace pare::cuda {

// A product as kernels see it; shapes as in sparse_layout.h.
struct SparseProblem {
  const float* x;
  const uint8_t* codes;
  const int64_t* starts;  // masked
  const float* scales;    // with codes
  const float* zeros;     // null: all are `zero`
  const float* bias;
  float* out;
  int64_t m, n, k, x_stride, out_stride;
  int64_t groups, group_width;
  float zero;
  bool accumulate;
};
SparseProblem sparse_problem(const PackedMatmulArgs& a);

// Tokens that one launch of the vector kernels takes at once.
constexpr int64_t kSparseVectorTokens = 16;

// Products in float: every lane expands what it holds. Any form.
void launch_of_four_vector(Context& context, const SparseForm& form, const SparseProblem& p);
void launch_masked_vector(Context& context, const SparseForm& form, const SparseProblem& p);

// Sparse tensor cores. workspace: of_four_mma_workspace_bytes().
size_t of_four_mma_workspace_bytes(int64_t m, int64_t k);
void launch_of_four_mma(Context& context, const SparseForm& form, const SparseProblem& p, void* workspace);

// The dense matrix [n, k] of `dtype`: that of the values; with codes f32 or bf16.
void launch_expand(Context& context, const SparseForm& form, const SparseProblem& p, DType dtype,
                   void* dense);

// Kept weight `index` of an array.
template <SparseStored kStored>
__device__ __forceinline__ float stored_value(const uint8_t* base, int64_t index) {
  if constexpr (kStored == SparseStored::f32) return reinterpret_cast<const float*>(base)[index];
  if constexpr (kStored == SparseStored::bf16)
    return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(base)[index]);
  if constexpr (kStored == SparseStored::f16)
    return __half2float(reinterpret_cast<const __half*>(base)[index]);
  if constexpr (kStored == SparseStored::byte) return float(base[index]);
  if constexpr (kStored == SparseStored::nibble) return float(base[index / 2] >> (index % 2 * 4) & 15);
  return 0.0f;
}

template <SparseStored kStored>
constexpr bool kIsCode = kStored == SparseStored::byte || kStored == SparseStored::nibble;

// scale * (code - zero), the rule of dequantize().
struct SparseGrid {
  float scale, zero;
  __device__ __forceinline__ float weight(float code) const {
    return __fmul_rn(scale, __fsub_rn(code, zero));
  }
};
__device__ __forceinline__ SparseGrid sparse_grid(const SparseProblem& p, int64_t row, int64_t group) {
  const int64_t at = group * p.n + row;
  return {p.scales[at], p.zeros != nullptr ? p.zeros[at] : p.zero};
}

__device__ __forceinline__ void sparse_store(const SparseProblem& p, int64_t token, int64_t n, float total) {
  if (p.bias != nullptr) total += p.bias[n];
  float& out = p.out[token * p.out_stride + n];
  out = p.accumulate ? out + total : total;
}

// Calls run<kStored>().
template <typename Run>
void with_stored(SparseStored stored, Run run) {
  switch (stored) {
    case SparseStored::f32:
      return run.template operator()<SparseStored::f32>();
    case SparseStored::bf16:
      return run.template operator()<SparseStored::bf16>();
    case SparseStored::f16:
      return run.template operator()<SparseStored::f16>();
    case SparseStored::byte:
      return run.template operator()<SparseStored::byte>();
    case SparseStored::nibble:
      return run.template operator()<SparseStored::nibble>();
  }
}

}  // namespace pare::cuda
