#include "prune/allocation.h"

#include <algorithm>
#include <cmath>

#include "engine/core/assert.h"

namespace pare {
namespace {

// One straight piece of a part's hull.
struct HullStep {
  size_t part;
  double from, to;  // sparsity
  double slope;     // cost per weight removed
};

// The lower convex hull of a curve from its first point on.
void add_hull(const CostCurve& curve, size_t part, std::vector<HullStep>& steps) {
  size_t at = 0;
  while (at + 1 < curve.sparsity.size()) {
    size_t best = at + 1;
    double best_slope = INFINITY;
    for (size_t next = at + 1; next < curve.sparsity.size(); ++next) {
      const double weights = (curve.sparsity[next] - curve.sparsity[at]) * double(curve.weights);
      const double slope = (curve.cost[next] - curve.cost[at]) / weights;
      if (slope <= best_slope) best_slope = slope, best = next;
    }
    steps.push_back({part, curve.sparsity[at], curve.sparsity[best], best_slope});
    at = best;
  }
}

}  // namespace

std::vector<double> owl_allocation(std::span<const double> ratios, double sparsity, double lambda) {
  PARE_ASSERT(!ratios.empty(), "[allocation] no parts");
  const auto [low, high] = std::minmax_element(ratios.begin(), ratios.end());
  std::vector<double> result(ratios.size(), sparsity);
  if (*high == *low) return result;
  double mean = 0.0;
  std::vector<double> shares;
  for (const double ratio : ratios) {
    shares.push_back((ratio - *low) / (*high - *low) * 2.0 * lambda);
    mean += shares.back() / double(ratios.size());
  }
  for (size_t i = 0; i < result.size(); ++i) result[i] = sparsity + mean - shares[i];
  return result;
}

std::vector<double> shifted_to(std::span<const double> sparsities, std::span<const int64_t> weights,
                               double sparsity) {
  double total = 0.0;
  for (const int64_t weight : weights) total += double(weight);
  const auto mean_at = [&](double shift) {
    double sum = 0.0;
    for (size_t i = 0; i < sparsities.size(); ++i)
      sum += double(weights[i]) * std::clamp(sparsities[i] + shift, 0.0, kMostSparse);
    return sum / total;
  };
  double low = -1.0, high = 1.0;  // the mean rises with the shift
  for (int step = 0; step < 100; ++step) {
    const double middle = 0.5 * (low + high);
    (mean_at(middle) < sparsity ? low : high) = middle;
  }
  std::vector<double> result;
  for (const double value : sparsities) result.push_back(std::clamp(value + high, 0.0, kMostSparse));
  return result;
}

std::vector<double> cheapest_allocation(std::span<const CostCurve> curves, double sparsity) {
  std::vector<HullStep> steps;
  double total = 0.0;
  for (size_t part = 0; part < curves.size(); ++part) {
    PARE_ASSERT(curves[part].sparsity.size() == curves[part].cost.size() && !curves[part].cost.empty(),
                "[allocation] curve {}", part);
    add_hull(curves[part], part, steps);
    total += double(curves[part].weights);
  }
  // Slopes of one hull rise, so that a stable order never takes a later piece first.
  std::stable_sort(steps.begin(), steps.end(),
                   [](const HullStep& a, const HullStep& b) { return a.slope < b.slope; });
  std::vector<double> result(curves.size(), 0.0);
  double left = sparsity * total;
  for (const HullStep& step : steps) {
    const double weights = (step.to - step.from) * double(curves[step.part].weights);
    if (weights <= 0.0) continue;
    const double share = std::min(1.0, left / weights);
    result[step.part] = step.from + share * (step.to - step.from);
    left -= share * weights;
    if (left <= 0.0) break;
  }
  return result;
}

}  // namespace pare
