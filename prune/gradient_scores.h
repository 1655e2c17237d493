// prune/gradient_scores.h: what the loss says of each weight, from its gradients over the calibration
// windows.
//
//   taylor, first        |w g|                 loss change of zeroing the weight, to first order
//   taylor, per_sample   mean_n |w g_n|        the same window by window: does not vanish where g does
//   taylor, mixed        |w g - 1/2 w^2 F|     both terms of the expansion
//   fisher               1/2 w^2 F             second order, the Fisher information in place of the Hessian
//   (OBD)
//
// Scores of different matrices compare. Source: Molchanov et al., "Importance Estimation for Neural Network
// Pruning" (2019); LeCun et al., "Optimal Brain Damage" (1990); exact: algorithms.md 5.3.
#pragma once

#include <string_view>
#include <vector>

#include "calibrate/weight_gradients.h"
#include "engine/core/result.h"

namespace pare {

enum class GradientScore : uint8_t { first, per_sample, mixed, fisher };
// "first", "per-sample", "mixed": the forms of taylor. Exit 2 with the list.
Result<GradientScore> parse_taylor_form(std::string_view text);
std::string_view gradient_score_name(GradientScore score);  // "fisher" of fisher

// What the score is made of, in a fixed order.
std::vector<GradientMoment> moments_of(GradientScore score);

// weight f32 [out, in]; moments as moments_of() lists them, of the same shape. Exit 6.
Result<Tensor> gradient_scores(GradientScore score, const Tensor& weight, const std::vector<Tensor>& moments);

}  // namespace pare
