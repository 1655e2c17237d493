// engine/tensor/sparse_detect.h: the sparse form of a matrix that has zeros already, whoever made them.
#pragma once

#include <optional>
#include <variant>

#include "engine/core/result.h"
#include "engine/tensor/sparse_tensor.h"

namespace pare {

// Weights other than 0 (-0 counts as 0) of an f32, bf16 or f16 matrix; of codes those that stand for another
// value.
Result<Mask> nonzero_mask(const Tensor& weight);
Result<Mask> nonzero_mask(const QuantizedTensor& weight);
// Whether every weight that `kept` lacks is 0.
Result<bool> zeros_hold(const QuantizedTensor& weight, const Mask& kept);

// The smallest mask of the pattern that keeps all of `nonzero` (zeros fill up groups and blocks), or nothing
// when a group has too many.
Result<std::optional<Mask>> fitted_mask(const Mask& nonzero, const SparsityPattern& pattern);

// The sparse form that takes the fewest bytes, or nothing when none is smaller than the weight itself.
// Without a pattern: N:M for M of 2, 4, 8 and 16, unstructured, blocks of 1x8, 4x4 and 16x16. With one: that
// or nothing. Types without a sparse form give nothing. Every value stays what it is, but -0 becomes +0.
Result<std::optional<SparseTensor>> sparse_form_of(const Tensor& weight,
                                                   const std::optional<SparsityPattern>& pattern);
Result<std::optional<SparseTensor>> sparse_form_of(const QuantizedTensor& weight,
                                                   const std::optional<SparsityPattern>& pattern);

}  // namespace pare
