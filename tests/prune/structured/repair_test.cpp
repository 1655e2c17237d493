// The closed form against its own definition, and scores against the formulas they stand for.
#include "prune/structured/repair.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "calibrate/output_error.h"
#include "engine/backends/cpu/cpu_backend.h"
#include "engine/tensor/cholesky.h"
#include "prune/structured/importance.h"
#include "prune/structured/select.h"
#include "tests/support/compare.h"
#include "tests/support/tiny_model.h"

namespace pare {
namespace {

using test::checked;
using Matrix = std::vector<double>;  // [n, n]

// Inverse by Gauss-Jordan with pivots: nothing in common with a Cholesky factorization.
Matrix inverse(Matrix a, int64_t n) {
  Matrix b(size_t(n * n), 0.0);
  for (int64_t i = 0; i < n; ++i) b[size_t(i * n + i)] = 1.0;
  for (int64_t k = 0; k < n; ++k) {
    int64_t pivot = k;
    for (int64_t i = k; i < n; ++i)
      if (std::fabs(a[size_t(i * n + k)]) > std::fabs(a[size_t(pivot * n + k)])) pivot = i;
    for (int64_t j = 0; j < n; ++j) {
      std::swap(a[size_t(k * n + j)], a[size_t(pivot * n + j)]);
      std::swap(b[size_t(k * n + j)], b[size_t(pivot * n + j)]);
    }
    const double scale = 1.0 / a[size_t(k * n + k)];
    for (int64_t j = 0; j < n; ++j) a[size_t(k * n + j)] *= scale, b[size_t(k * n + j)] *= scale;
    for (int64_t i = 0; i < n; ++i) {
      const double factor = a[size_t(i * n + k)];
      if (i == k || factor == 0.0) continue;
      for (int64_t j = 0; j < n; ++j) {
        a[size_t(i * n + j)] -= factor * a[size_t(k * n + j)];
        b[size_t(i * n + j)] -= factor * b[size_t(k * n + j)];
      }
    }
  }
  return b;
}

class Repair : public ::testing::Test {
 protected:
  static constexpr int64_t kOut = 7, kIn = 12, kTokens = 90;

  void SetUp() override {
    install_backend(make_cpu_backend());
    // Correlated inputs with a mean.
    inputs_ = test::random_normal({kTokens, kIn}, "x", 0.3f, 1.0f);
    for (int64_t t = 0; t < kTokens; ++t)
      for (int64_t c = 1; c < kIn; ++c)
        inputs_.mutable_data<float>()[t * kIn + c] += 0.7f * inputs_.data<float>()[t * kIn + c - 1];
    weight_ = test::random_normal({kOut, kIn}, "w", 0.0f, 1.0f);
    moment_ = checked(Tensor::allocate(DType::f32, {kIn, kIn}));
    sum_.assign(kIn, 0.0);
    for (int64_t i = 0; i < kIn; ++i) {
      for (int64_t j = 0; j < kIn; ++j) {
        double value = 0.0;
        for (int64_t t = 0; t < kTokens; ++t)
          value += double(inputs_.data<float>()[t * kIn + i]) * double(inputs_.data<float>()[t * kIn + j]);
        moment_.mutable_data<float>()[i * kIn + j] = float(value);
      }
      for (int64_t t = 0; t < kTokens; ++t) sum_[size_t(i)] += double(inputs_.data<float>()[t * kIn + i]);
    }
  }

  Matrix damped(double damping) const {
    Matrix h(moment_.data<float>(), moment_.data<float>() + kIn * kIn);
    double mean = 0.0;
    for (int64_t i = 0; i < kIn; ++i) mean += h[size_t(i * kIn + i)] / kIn;
    for (int64_t i = 0; i < kIn; ++i) h[size_t(i * kIn + i)] += damping * mean;
    return h;
  }

  Repaired repair(const std::vector<int64_t>& kept, double damping, bool centred = false) const {
    return checked(repaired({.weight = weight_,
                             .moment = moment_,
                             .kept = kept,
                             .damping = damping,
                             .sum = centred ? &sum_ : nullptr,
                             .tokens = kTokens},
                            "test"));
  }

  // ||X (W - W')^T - b||^2 over the tokens.
  double error(const Tensor& repaired_weight, const std::vector<int64_t>& kept, const float* bias) const {
    const Tensor wide = checked(widened(repaired_weight, kept, kIn));
    double total = 0.0;
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t row = 0; row < kOut; ++row) {
        double d = bias != nullptr ? -double(bias[row]) : 0.0;
        for (int64_t c = 0; c < kIn; ++c)
          d += double(inputs_.data<float>()[t * kIn + c]) *
               (double(weight_.data<float>()[row * kIn + c]) - double(wide.data<float>()[row * kIn + c]));
        total += d * d;
      }
    }
    return total;
  }

  Tensor inputs_, weight_, moment_;
  std::vector<double> sum_;
};

const std::vector<int64_t> kKept = {0, 1, 3, 4, 7, 8, 10};

TEST_F(Repair, NothingRemovedGivesTheWeightBack) {
  for (const double damping : {0.0, 0.01, 1.0}) {
    const Repaired result = repair(all_units(kIn), damping);
    EXPECT_EQ(test::relative_error(result.weight, weight_), 0.0);
  }
}

TEST_F(Repair, IsTheLeastSquaresSolution) {
  const Repaired result = repair(kKept, 0.0);
  // Normal equations: W' H_SS = W H_:S.
  const int64_t left = int64_t(kKept.size());
  const Matrix h = damped(0.0);
  for (int64_t row = 0; row < kOut; ++row) {
    for (int64_t j = 0; j < left; ++j) {
      double ours = 0.0, target = 0.0;
      for (int64_t k = 0; k < left; ++k)
        ours += double(result.weight.data<float>()[row * left + k]) *
                h[size_t(kKept[size_t(k)] * kIn + kKept[size_t(j)])];
      for (int64_t k = 0; k < kIn; ++k)
        target += double(weight_.data<float>()[row * kIn + k]) * h[size_t(k * kIn + kKept[size_t(j)])];
      EXPECT_NEAR(ours, target, 2e-5 * (std::fabs(target) + double(kTokens)));
    }
  }
  const Tensor dropped = checked(sliced(weight_, std::nullopt, kKept));
  EXPECT_LT(error(result.weight, kKept, nullptr), 0.8 * error(dropped, kKept, nullptr));
}

TEST_F(Repair, LowersTheErrorThatTheSecondMomentMeasures) {
  const Repaired result = repair(kKept, 0.01);
  const Tensor dropped = checked(widened(checked(sliced(weight_, std::nullopt, kKept)), kKept, kIn));
  const Tensor fitted = checked(widened(result.weight, kKept, kIn));
  EXPECT_LT(checked(relative_output_error(weight_, fitted, moment_)),
            checked(relative_output_error(weight_, dropped, moment_)));
}

// Columns removed one by one with the OBS update, on the damped second moment.
TEST_F(Repair, SingleRemovalsInTurnGiveTheClosedForm) {
  const double damping = 0.02;
  Matrix g = inverse(damped(damping), kIn);
  std::vector<double> w(weight_.data<float>(), weight_.data<float>() + kOut * kIn);
  for (const int64_t column : {11, 2, 9, 5, 6}) {
    const double pivot = g[size_t(column * kIn + column)];
    for (int64_t row = 0; row < kOut; ++row) {
      const double factor = w[size_t(row * kIn + column)] / pivot;
      for (int64_t j = 0; j < kIn; ++j) w[size_t(row * kIn + j)] -= factor * g[size_t(column * kIn + j)];
    }
    const Matrix before = g;
    for (int64_t i = 0; i < kIn; ++i)
      for (int64_t j = 0; j < kIn; ++j)
        g[size_t(i * kIn + j)] -= before[size_t(i * kIn + column)] * before[size_t(column * kIn + j)] / pivot;
  }
  const Repaired result = repair(kKept, damping);
  const int64_t left = int64_t(kKept.size());
  for (int64_t row = 0; row < kOut; ++row)
    for (int64_t j = 0; j < left; ++j)
      EXPECT_NEAR(double(result.weight.data<float>()[row * left + j]),
                  w[size_t(row * kIn + kKept[size_t(j)])], 1e-5);
}

TEST_F(Repair, ABiasTakesTheMean) {
  const Repaired plain = repair(kKept, 1e-4), centred = repair(kKept, 1e-4, true);
  ASSERT_TRUE(centred.bias.defined());
  EXPECT_LT(error(centred.weight, kKept, centred.bias.data<float>()), error(plain.weight, kKept, nullptr));
  // Errors have no mean left.
  for (int64_t row = 0; row < kOut; ++row) {
    double mean = -double(centred.bias.data<float>()[row]);
    const Tensor wide = checked(widened(centred.weight, kKept, kIn));
    for (int64_t c = 0; c < kIn; ++c)
      mean += sum_[size_t(c)] / kTokens *
              (double(weight_.data<float>()[row * kIn + c]) - double(wide.data<float>()[row * kIn + c]));
    EXPECT_NEAR(mean, 0.0, 1e-5);
  }
  // Dropping with the mean corrected is better than dropping.
  const Tensor dropped = checked(sliced(weight_, std::nullopt, kKept));
  const Tensor correction = checked(mean_correction(weight_, sum_, kTokens, kKept));
  EXPECT_LT(error(dropped, kKept, correction.data<float>()), error(dropped, kKept, nullptr));
}

TEST_F(Repair, MatchesAnotherStream) {
  // What the original saw is twice what is seen here: the fit is twice the weight.
  Tensor cross = checked(converted(moment_, DType::f32));
  for (int64_t i = 0; i < cross.numel(); ++i) cross.mutable_data<float>()[i] *= 2.0f;
  const Repaired result = checked(repaired({.weight = weight_,
                                            .moment = moment_,
                                            .kept = all_units(kIn),
                                            .damping = 0.0,
                                            .sum = nullptr,
                                            .tokens = kTokens,
                                            .cross = &cross,
                                            .original_weight = &weight_},
                                           "test"));
  for (int64_t i = 0; i < weight_.numel(); ++i)
    EXPECT_NEAR(double(result.weight.data<float>()[i]), 2.0 * double(weight_.data<float>()[i]), 1e-3);
}

TEST_F(Repair, InputsThatWereNeverSeenAreDropped) {
  const Tensor zero = checked(Tensor::allocate(DType::f32, {kIn, kIn}));
  const Repaired result =
      checked(repaired({.weight = weight_, .moment = zero, .kept = kKept, .damping = 0.01}, "test"));
  EXPECT_FALSE(result.has_data);
  EXPECT_EQ(test::relative_error(result.weight, checked(sliced(weight_, std::nullopt, kKept))), 0.0);
}

TEST_F(Repair, ScoresAreTheirFormulas) {
  SiteStatistics statistics;
  statistics.channels = kIn;
  statistics.tokens = kTokens;
  statistics.second_moment = moment_;
  const double damping = 0.05;
  const Matrix g = inverse(damped(damping), kIn);
  const Tensor consumers[] = {weight_};

  const auto obs = checked(unit_scores(UnitScore::obs, statistics, consumers, 1, damping, "test"));
  for (int64_t c = 0; c < kIn; ++c) {
    double squares = 0.0;
    for (int64_t row = 0; row < kOut; ++row)
      squares += std::pow(double(weight_.data<float>()[row * kIn + c]), 2);
    EXPECT_NEAR(obs[size_t(c)], squares / g[size_t(c * kIn + c)], 1e-6 * obs[size_t(c)]);
  }

  // Leverage: the diagonal of H (H + d)^-1.
  const auto eigen = checked(unit_scores(UnitScore::eigen, statistics, consumers, 1, damping, "test"));
  for (int64_t c = 0; c < kIn; ++c) {
    double leverage = 0.0;
    for (int64_t k = 0; k < kIn; ++k)
      leverage += double(moment_.data<float>()[c * kIn + k]) * g[size_t(k * kIn + c)];
    EXPECT_NEAR(eigen[size_t(c)], leverage, 1e-9);
    EXPECT_LE(eigen[size_t(c)], 1.0);
  }

  // A set of columns costs what the closed form leaves: tr(D H~ D^T) on the damped moment.
  const int64_t width = 3;
  const auto sets = checked(unit_scores(UnitScore::obs, statistics, consumers, width, damping, "test"));
  Tensor whole = checked(Tensor::allocate(DType::f32, {kIn, kIn}));
  const Matrix h = damped(damping);
  for (int64_t i = 0; i < kIn * kIn; ++i) whole.mutable_data<float>()[i] = float(h[size_t(i)]);
  for (int64_t unit = 0; unit < kIn / width; ++unit) {
    std::vector<int64_t> kept;
    for (int64_t c = 0; c < kIn; ++c)
      if (c / width != unit) kept.push_back(c);
    const Tensor fitted = checked(widened(repair(kept, damping).weight, kept, kIn));
    EXPECT_NEAR(sets[size_t(unit)], checked(error_energy(weight_, fitted, whole)), 1e-4 * sets[size_t(unit)]);
  }

  const auto summed = checked(unit_scores(UnitScore::eigen, statistics, consumers, width, damping, "test"));
  for (size_t unit = 0; unit < summed.size(); ++unit)
    EXPECT_NEAR(summed[unit], eigen[3 * unit] + eigen[3 * unit + 1] + eigen[3 * unit + 2], 1e-12);

  statistics.sample_square_sum.assign(kIn, 0.0);
  statistics.abs_sum.assign(kIn, 0.0);
  for (int64_t c = 0; c < kIn; ++c) {
    statistics.sample_square_sum[size_t(c)] = double(c * c);
    statistics.abs_sum[size_t(c)] = double(c) * kTokens;
  }
  const auto activation = checked(unit_scores(UnitScore::activation, statistics, {}, 2, damping, "test"));
  EXPECT_NEAR(activation[2], std::sqrt(4.0 * 4.0 + 5.0 * 5.0), 1e-12);
  const auto weighted = checked(unit_scores(UnitScore::weighted, statistics, consumers, 1, damping, "test"));
  double norm = 0.0;
  for (int64_t row = 0; row < kOut; ++row) norm += std::pow(double(weight_.data<float>()[row * kIn + 4]), 2);
  EXPECT_NEAR(weighted[4], 4.0 * std::sqrt(norm), 1e-9);
}

TEST(Select, AmongEqualsTheLargerIndexGoesFirst) {
  EXPECT_EQ(best_units(std::vector{1.0, 2.0, 1.0, 1.0}, 2), (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(best_units(std::vector{0.0, 0.0, 0.0}, 1), (std::vector<int64_t>{0}));
  EXPECT_EQ(others({0, 2}, 4), (std::vector<int64_t>{1, 3}));
}

TEST(Select, QueriesAreRankedInsideTheirGroups) {
  BlockUnits units;
  // Group 1 has the two best queries of all, but one of each group goes.
  choose_heads(std::vector{1.0, 9.0, 3.0}, std::vector{1.0, 2.0, 9.0, 8.0, 4.0, 3.0}, 3, 1, units);
  EXPECT_EQ(units.query_heads, (std::vector<int64_t>{1, 2, 4}));
  EXPECT_EQ(units.kv_heads, (std::vector<int64_t>{0, 1, 2}));
  choose_heads(std::vector{1.0, 9.0, 3.0}, std::vector{1.0, 2.0, 9.0, 8.0, 4.0, 3.0}, 2, 2, units);
  EXPECT_EQ(units.query_heads, (std::vector<int64_t>{2, 3, 4, 5}));
  EXPECT_EQ(units.kv_heads, (std::vector<int64_t>{1, 2}));
}

TEST(Cholesky, DividesBySymmetric) {
  const int64_t n = 9, rows = 4;
  Matrix a(n * n, 0.0);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) a[size_t(i * n + j)] = 1.0 / double(1 + i + j) + (i == j ? 0.5 : 0.0);
  std::vector<double> right(rows * n);
  for (size_t i = 0; i < right.size(); ++i) right[i] = double(i % 7) - 3.0;
  std::vector<double> x = right;
  ASSERT_TRUE(divide_by_symmetric(a, n, x, rows));
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t j = 0; j < n; ++j) {
      double product = 0.0;
      for (int64_t k = 0; k < n; ++k) product += x[size_t(row * n + k)] * a[size_t(k * n + j)];
      EXPECT_NEAR(product, right[size_t(row * n + j)], 1e-12);
    }
  a[0] = -1.0;
  EXPECT_FALSE(divide_by_symmetric(a, n, x, rows));
}

}  // namespace
}  // namespace pare
