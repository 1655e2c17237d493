// engine/backends/cpu/sparse/sample.h: matrices to measure kernels on: the same ones every time, at any size
// that is a multiple of 8.
#pragma once

#include "engine/tensor/sparse_tensor.h"

namespace pare::cpu {

Result<Tensor> sample_values(DType dtype, int64_t out, int64_t in);  // f32, bf16 or f16, uniform in [-1, 1)
Result<QuantizedTensor> sample_codes(const QuantScheme& scheme, int64_t out, int64_t in);
// `density`: share kept, for patterns that leave it open.
Result<Mask> sample_mask(const SparsityPattern& pattern, double density, int64_t out, int64_t in);

}  // namespace pare::cpu
