#include "prune/allocation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/core/random.h"
#include "prune/schedule.h"
#include "prune/scores.h"

namespace pare {
namespace {

TEST(Allocation, OwlPublishedExample) {
  const std::vector<double> ratios = {1, 2, 4, 9};
  const std::vector<double> expected = {0.76, 0.74, 0.70, 0.60};
  const std::vector<double> got = owl_allocation(ratios, 0.7, 0.08);
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(got[i], expected[i], 1e-12);
  const std::vector<double> equal = owl_allocation(std::vector<double>{3, 3, 3}, 0.5, 0.08);
  EXPECT_EQ(equal, std::vector<double>(3, 0.5));
}

TEST(Allocation, ShiftMeetsTheWeightedMeanAndTheLimits) {
  const std::vector<double> shares = {0.2, 0.9, 0.99};
  const std::vector<int64_t> weights = {100, 10, 1};
  for (const double mean : {0.1, 0.5, 0.9}) {
    const std::vector<double> got = shifted_to(shares, weights, mean);
    double sum = 0.0;
    for (size_t i = 0; i < 3; ++i) {
      sum += got[i] * double(weights[i]);
      EXPECT_GE(got[i], 0.0);
      EXPECT_LE(got[i], kMostSparse);
    }
    EXPECT_NEAR(sum / 111.0, mean, 1e-9);
    EXPECT_LE(got[0], got[1]);
  }
}

// Against all choices on a grid: no combination of the same total is cheaper.
TEST(Allocation, CheapestBeatsEveryCombination) {
  const Random random(5, RandomPurpose::test_data);
  for (uint64_t trial = 0; trial < 30; ++trial) {
    std::vector<CostCurve> curves;
    for (uint64_t part = 0; part < 3; ++part) {
      CostCurve curve{.weights = 10, .sparsity = {0.0, 0.3, 0.6, 0.9}, .cost = {0.0}};
      for (uint64_t i = 1; i < 4; ++i)
        curve.cost.push_back(curve.cost.back() + double(random.uniform(trial * 16 + part * 4 + i)));
      curves.push_back(curve);
    }
    const auto cost_at = [&](size_t part, double share) {
      // On the lower convex hull of the points.
      double best = INFINITY;
      const CostCurve& curve = curves[part];
      for (size_t a = 0; a < 4; ++a)
        for (size_t b = a; b < 4; ++b) {
          const double low = curve.sparsity[a], high = curve.sparsity[b];
          if (share < low - 1e-12 || share > high + 1e-12) continue;
          const double t = high > low ? (share - low) / (high - low) : 0.0;
          best = std::min(best, curve.cost[a] + t * (curve.cost[b] - curve.cost[a]));
        }
      return best;
    };
    const std::vector<double> got = cheapest_allocation(curves, 0.5);
    EXPECT_NEAR(got[0] + got[1] + got[2], 1.5, 1e-9);
    const double cost = cost_at(0, got[0]) + cost_at(1, got[1]) + cost_at(2, got[2]);
    for (double a = 0.0; a <= 0.9; a += 0.05)
      for (double b = 0.0; b <= 0.9; b += 0.05) {
        const double c = 1.5 - a - b;
        if (c < 0.0 || c > 0.9) continue;
        EXPECT_LE(cost, cost_at(0, a) + cost_at(1, b) + cost_at(2, c) + 1e-9) << trial;
      }
  }
}

TEST(Schedule, CubicRampPublishedValues) {
  const CubicSchedule ramp{.initial = Sparsity::of(0.0),
                           .final = Sparsity::of(0.8),
                           .first_step = 100,
                           .interval = 10,
                           .intervals = 8};
  EXPECT_EQ(ramp.at(0), Sparsity::of(0.0));
  EXPECT_NEAR(ramp.at(120).share(), 0.4625, 1e-6);
  EXPECT_NEAR(ramp.at(140).share(), 0.7, 1e-6);
  EXPECT_NEAR(ramp.at(169).share(), 0.7875, 1e-6);  // between steps: the last one's
  EXPECT_EQ(ramp.at(180), Sparsity::of(0.8));
  EXPECT_EQ(ramp.at(100000), Sparsity::of(0.8));
  EXPECT_TRUE(ramp.changes_at(100) && ramp.changes_at(180));
  EXPECT_FALSE(ramp.changes_at(99) || ramp.changes_at(105) || ramp.changes_at(190));
}

TEST(Scores, LampIsTheShareOfWhatIsAtLeastAsLarge) {
  Tensor scores = Tensor::allocate(DType::f32, {1, 4}).value();
  const float values[] = {3.0f, 1.0f, 2.0f, 2.0f};
  for (int i = 0; i < 4; ++i) scores.mutable_data<float>()[i] = values[i];
  normalise_scores(scores, Normalisation::lamp);
  const float* got = scores.data<float>();
  EXPECT_FLOAT_EQ(got[0], 1.0f);          // 9 / 9
  EXPECT_FLOAT_EQ(got[1], 1.0f / 18.0f);  // 1 / (9 + 4 + 4 + 1)
  EXPECT_FLOAT_EQ(got[2], 4.0f / 17.0f);  // equal scores share their sum
  EXPECT_EQ(got[2], got[3]);
}

TEST(Scores, WandaDoesNotSeeRescaledColumns) {
  const Random random(6, RandomPurpose::test_data);
  Tensor weight = Tensor::allocate(DType::f32, {8, 12}).value(), scaled = weight;
  scaled = Tensor::allocate(DType::f32, {8, 12}).value();
  std::vector<float> norms, scaled_norms;
  for (uint64_t c = 0; c < 12; ++c) {
    const float factor = c % 3 == 0 ? 4.0f : 0.5f;  // exact in floats
    norms.push_back(random.uniform(c) + 0.1f);
    scaled_norms.push_back(norms.back() * factor);
    for (uint64_t r = 0; r < 8; ++r) {
      weight.mutable_data<float>()[r * 12 + c] = random.normal(r * 12 + c, 1);
      scaled.mutable_data<float>()[r * 12 + c] = weight.data<float>()[r * 12 + c] / factor;
    }
  }
  const Tensor a = wanda_scores(weight, norms).value(), b = wanda_scores(scaled, scaled_norms).value();
  for (int64_t i = 0; i < 96; ++i) EXPECT_EQ(a.data<float>()[i], b.data<float>()[i]);
}

}  // namespace
}  // namespace pare
