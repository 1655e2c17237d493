// quantize/smoothquant.h: moves the outliers of activations into the weights before both are rounded to 8
// bits. Source: Xiao et al., "SmoothQuant" (2023).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "engine/core/result.h"
#include "engine/tensor/quant_scheme.h"
#include "engine/tensor/tensor.h"

namespace pare {

// s_j = max|X_j|^alpha / max|W_:j|^(1 - alpha), maxima over all linears that read the site, at least 1e-5
// each. A channel without input gets 1; one without weights its largest input. activation_max [in].
std::vector<float> smooth_scale(std::span<const float> activation_max, std::span<const float> weight_max,
                                double alpha);

// Largest |w| of each column over several matrices f32 [*, in].
std::vector<float> column_max(std::span<const Tensor> weights);

struct SmoothChoice {
  double alpha = 0.5;
  double loss_ratio = 1.0;  // estimated output error with the scale / without
  std::string host_reason;  // ScaleLosses::host_reason()
};
// The alpha of 0.3, 0.35 .. 0.95 with the smallest estimated output error: the rounding of the weights
// measured with the second moment, the rounding of the activations as uniform noise of a grid that reaches
// their largest value. schemes: of each weight.
Result<SmoothChoice> search_smooth_alpha(std::span<const Tensor> weights,
                                         std::span<const QuantScheme> schemes,
                                         std::span<const float> activation_max,
                                         std::span<const float> weight_max, const Tensor& moment,
                                         int64_t tokens);

}  // namespace pare
