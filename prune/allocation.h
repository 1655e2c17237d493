// prune/allocation.h: how much each part of a model loses, so that the whole loses what was asked. Pure
// functions on numbers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/core/result.h"

namespace pare {

inline constexpr double kMostSparse = 0.95;  // of any part

// OWL: parts with more outliers keep more. ratios: share of outliers per part; lambda: half the width of the
// range of sparsities. Source: Yin et al., "Outlier Weighed Layerwise Sparsity" (2024); exact:
// algorithms.md 5.9.
std::vector<double> owl_allocation(std::span<const double> ratios, double sparsity, double lambda);

// Shifts all by one constant, within [0, kMostSparse], so that the mean weighted by `weights` (>= 0, not all
// zero) is `sparsity`.
std::vector<double> shifted_to(std::span<const double> sparsities, std::span<const int64_t> weights,
                               double sparsity);

// What a part costs at each of several sparsities, rising; the first is 0 with cost 0.
struct CostCurve {
  int64_t weights = 0;
  std::vector<double> sparsity;
  std::vector<double> cost;  // any unit, the same for all parts
};

// The sparsity per part with the smallest sum of costs that removes `sparsity` of all weights: steps along
// the lower convex hull of each curve, cheapest cost per weight first; the last step is taken in part. Ties
// go to the smaller part.
std::vector<double> cheapest_allocation(std::span<const CostCurve> curves, double sparsity);

}  // namespace pare
