// engine/backends/cuda/few_rows.h: dense products of one to eight rows of activations, where reading the
// weight is all there is to do and cuBLAS has no good kernel.
#pragma once

#include "engine/backends/cuda/context.h"
#include "engine/tensor/backend.h"

namespace pare::cuda {

constexpr int64_t kFewRows = 8;

// a.m <= kFewRows. In bf16 mode both factors are rounded as the larger products do; sums are float, in an
// order that depends on the shape and on the number of multiprocessors.
void few_rows_matmul(Context& context, const MatmulArgs& a);

}  // namespace pare::cuda
