// distill/step_init.h: where the steps of a grid start before they are learned, and which values they may
// take. Source: algorithms.md 7.6; Esser et al., "Learned step size quantization" (2020).
#pragma once

#include <string_view>

#include "engine/core/result.h"
#include "engine/tensor/quant_scheme.h"
#include "engine/tensor/tensor.h"
#include "engine/tensor/training_ops.h"

namespace pare {

enum class StepInit : uint8_t {
  least_squares,   // the smallest squared error of the weights, by search
  mean_magnitude,  // 2 mean|v| / sqrt(largest code); symmetric schemes only
};

// Exit 4 (RC14) for schemes whose steps cannot be learned: everything but integers with scales, symmetric or
// with zero points.
Status check_learnable(const QuantScheme& scheme, std::string_view name);

// Codes of an integer scheme as training sees them: around 0 for symmetric ones, from 0 with zero points.
ops::CodeRange code_range(const QuantScheme& scheme);

// The nearest step that can be stored: at least 1e-8 and a normal number of the scale type, at most its
// largest one. NaN stays NaN.
float bounded_step(DType scale_dtype, float step);
// That, rounded to the scale type.
float stored_step(DType scale_dtype, float step);

// One step, and one zero point where the scheme has them, for each group of the scheme: f32 [out, groups], or
// [1, 1].
struct StepGrid {
  Tensor scales;  // values of the scale type
  Tensor zeros;   // whole numbers within the codes; undefined for symmetric schemes
};

// weight f32 [out, in], contiguous. A group of zeros has step 1. Exit 4 as above or for a rule that the
// scheme does not have, 6, 7 for weights that are not finite. The same bytes for any number of threads.
Result<StepGrid> initial_steps(const Tensor& weight, const QuantScheme& scheme, StepInit init,
                               std::string_view name);

}  // namespace pare
