// engine/backends/cuda/packed_matmul.h: products with weights of layout "cuda-fragments", one function per
// kernel of packed_table.h. out[m, n] (+)= x W^T + bias; arguments as in PackedMatmulArgs.
#pragma once

#include "engine/backends/cuda/context.h"
#include "engine/backends/cuda/packed_fragments.h"
#include "engine/tensor/backend.h"

namespace pare::cuda {

// What every kernel gets, by value.
struct PackedProduct {
  FragmentMatrix w;
  const float* x;     // [m, in]
  const float* bias;  // [out] or null
  float* out;         // [m, out]
  int64_t x_stride, out_stride;
  int32_t m;
  bool accumulate;
};
PackedProduct packed_product(const PackedMatmulArgs& a);

// Float operands, any number of rows. No workspace.
void packed_floats(Context& context, const PackedProduct& product);

}  // namespace pare::cuda
