// calibrate/output_error.h: how far a linear's output moves when its weights do, on the data that was seen.
#pragma once

#include "engine/core/result.h"
#include "engine/tensor/tensor.h"

namespace pare {

// Where the moment lies on a GPU, the products are made there; matrices may be anywhere.

// tr(M H M^T) = ||X M^T||^2 for M f32 [out, in] and H = X^T X f32 [in, in]; sums over outputs in double.
Result<double> output_energy(const Tensor& matrix, const Tensor& moment);

// tr(D H D^T), D = W - What, both f32 [out, in] and contiguous.
Result<double> error_energy(const Tensor& weight, const Tensor& restored, const Tensor& moment);

// sqrt(tr(D H D^T) / tr(W H W^T)), D = W - What; 0 when the output is zero.
Result<double> relative_output_error(const Tensor& weight, const Tensor& restored, const Tensor& moment);

}  // namespace pare
