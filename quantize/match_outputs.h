// quantize/match_outputs.h: weights whose outputs on the compressed model's inputs come closest to the
// original model's outputs.
#pragma once

#include "calibrate/hessian.h"
#include "engine/core/result.h"
#include "engine/tensor/tensor.h"

namespace pare {

// W + W (C - H) (H + d m I)^-1: the damped least squares of ||X_o W^T - X V^T||, drawn towards W. cross: C =
// sum of x_o x^T, moment: H = X^T X, factor: of H in natural order with the damping d. weight f32 [out, in];
// a new tensor. Source: the asymmetric calibration of Li et al., "GPTAQ" (2025), solved at once instead of
// column by column.
Result<Tensor> matched_weight(const Tensor& weight, const Tensor& cross, const Tensor& moment,
                              const HessianFactor& factor);

}  // namespace pare
