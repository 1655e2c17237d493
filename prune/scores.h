// prune/scores.h: how much each weight matters. A score is >= 0; the lowest go first.
#pragma once

#include <span>

#include "engine/core/result.h"
#include "engine/tensor/tensor.h"

namespace pare {

// |w|, f32 [out, in].
Result<Tensor> magnitude_scores(const Tensor& weight);

// |w_ij| * norms_j. norms: of the inputs, [in]; a constant factor does not matter. Source: Sun et al., "A
// Simple and Effective Pruning Approach for Large Language Models" (Wanda, 2024).
Result<Tensor> wanda_scores(const Tensor& weight, std::span<const float> norms);

// For cuts over several matrices, whose weights differ in size.
enum class Normalisation : uint8_t {
  none,
  rms,   // score / root mean square of the matrix
  lamp,  // score^2 / sum of score^2 over the weights of the matrix with at least that score. Source: Lee et
         // al., "Layer-adaptive Sparsity for the Magnitude-based Pruning" (2021)
};
// In place. Equal scores of a matrix stay equal.
void normalise_scores(Tensor& scores, Normalisation normalisation);

// Share of scores above `factor` times their mean: OWL's measure of outliers.
struct OutlierCount {
  int64_t outliers = 0, weights = 0;
  double share() const { return weights == 0 ? 0.0 : double(outliers) / double(weights); }
};
OutlierCount count_outliers(const Tensor& scores, double factor, double mean);
double score_sum(const Tensor& scores);  // in row order

}  // namespace pare
