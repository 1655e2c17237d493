// engine/backends/cuda/gemm.h: dense products by cuBLASLt, in our words: rows are contiguous.
#pragma once

#include <cstdint>

#include "engine/backends/cuda/context.h"
#include "engine/tensor/dtype.h"

namespace pare::cuda {

// One factor: rows of `type` apart by `stride` elements.
struct GemmFactor {
  const void* data;
  int64_t stride;
  bool is_transposed;  // stored the other way round
};

// out[m, n] = alpha sum_k a[m, k] b[k, n] + (accumulate ? out : 0) + bias[n]
//
// Of floats (f32, bf16, f16; both factors alike) with float sums and a float result: no TF32, no emulation;
// or of signed bytes (i8) with int32 sums and result: then a is [m, k] and b stored [n, k], pointers aligned
// to 4 and strides multiples of 4, no bias, alpha 1.
struct GemmArgs {
  DType type;
  GemmFactor a, b;
  void* out;
  const float* bias;  // or null
  int64_t m, n, k, out_stride;
  float alpha;
  bool accumulate;
};

// Chosen by the library's rule for shape and alignment, never by timing; splits of k only where parts are
// added in a fixed order. Errors go to the context.
void gemm(Context& context, const char* name, const GemmArgs& a);

// Rows of floats rounded to nearest as bf16 or f16, or rows of those as floats. Any alignment and stride.
struct ConvertArgs {
  const void* from;
  void* to;
  DType from_type, to_type;
  int64_t rows, columns, from_stride, to_stride;
};
void convert_rows(Context& context, const ConvertArgs& a);

// What the context multiplies with: factors of `weight`'s type in f32 mode become f32, in bf16 mode bf16
// (f16 where the weight is).
inline DType product_type(MathMode math, DType weight) {
  if (math == MathMode::f32) return DType::f32;
  return weight == DType::f16 ? DType::f16 : DType::bf16;
}
// Rows of a rounded copy of k columns start at 16 bytes.
inline int64_t padded_width(int64_t columns) {
  return (columns + 7) / 8 * 8;
}

}  // namespace pare::cuda
