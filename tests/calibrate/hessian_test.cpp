#include "calibrate/hessian.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/quantize/problem.h"

namespace pare::test {
namespace {

Tensor matrix(int64_t n, const std::vector<float>& values) {
  Tensor result = Tensor::allocate(DType::f32, {n, n}).value();
  std::memcpy(result.mutable_raw(), values.data(), values.size() * sizeof(float));
  return result;
}

HessianFactor factor_of(const Tensor& moment, const HessianOptions& options = {}) {
  auto factor = factor_hessian(moment, options, "w");
  EXPECT_TRUE(factor.has_value()) << (factor ? "" : format_error(factor.error()));
  return *std::move(factor);
}

double mean_diagonal(const Tensor& moment) {
  double sum = 0.0;
  for (int64_t i = 0; i < moment.size(0); ++i) sum += double(moment.data<float>()[i * moment.size(0) + i]);
  return sum / double(moment.size(0));
}

TEST(Hessian, FactorOfTheDampedInverseInItsOrder) {
  const int64_t n = 37;
  const Tensor moment = correlated_moment(n);
  for (const bool act_order : {false, true})
    for (const double damping : {0.01, 0.3}) {
      const HessianFactor factor = factor_of(moment, {.damping = damping, .act_order = act_order});
      ASSERT_EQ(factor.attempts.size(), 1u);
      EXPECT_EQ(factor.damping(), damping);
      EXPECT_GT(factor.attempts[0].smallest_pivot, 0.0);
      const float* u = factor.upper.data<float>();
      const double add = damping * mean_diagonal(moment);
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < n; ++j) {
          // (U^T U A)_ij, A = H + d m I in the factor's order
          double sum = 0.0;
          for (int64_t k = 0; k < n; ++k) {
            double inverse = 0.0;
            for (int64_t l = 0; l <= std::min(i, k); ++l)
              inverse += double(u[l * n + i]) * double(u[l * n + k]);
            const double a = double(moment.data<float>()[factor.order[k] * n + factor.order[j]]);
            sum += inverse * (a + (k == j ? add : 0.0));
          }
          EXPECT_NEAR(sum, i == j ? 1.0 : 0.0, 2e-4) << i << "," << j;
        }
    }
}

TEST(Hessian, ActOrderFallsAndTiesGoToTheSmallerColumn) {
  Tensor moment = scaled_identity(6, 1.0f);
  const float diagonal[] = {2.0f, 5.0f, 2.0f, 7.0f, 5.0f, 2.0f};
  for (int64_t i = 0; i < 6; ++i) moment.mutable_data<float>()[i * 6 + i] = diagonal[i];
  EXPECT_EQ(factor_of(moment).order, (std::vector<int32_t>{3, 1, 4, 0, 2, 5}));
  EXPECT_EQ(factor_of(moment, {.act_order = false}).order, (std::vector<int32_t>{0, 1, 2, 3, 4, 5}));
}

// A dead column gets the mean of the live ones, so it is last by no rule but that of the zero it had.
TEST(Hessian, DeadColumnsAreDecoupledAndTakeTheMean) {
  Tensor moment = scaled_identity(4, 3.0f);
  moment.mutable_data<float>()[1 * 4 + 1] = 0.0f;
  moment.mutable_data<float>()[0] = 9.0f;
  const HessianFactor factor = factor_of(moment);
  EXPECT_EQ(factor.dead, (std::vector<int32_t>{1}));
  EXPECT_EQ(factor.order, (std::vector<int32_t>{0, 2, 3, 1}));
  const double mean = 5.0;  // of 9, 3 and 3: the dead one does not count
  EXPECT_NEAR(factor.upper.data<float>()[0], 1.0 / std::sqrt(9.0 + 0.01 * mean), 1e-6);
  EXPECT_NEAR(factor.upper.data<float>()[3 * 4 + 3], 1.0 / std::sqrt(mean + 0.01 * mean), 1e-6);
  EXPECT_FALSE(factor.all_dead);
}

TEST(Hessian, AllDeadIsNoFailure) {
  const HessianFactor factor = factor_of(scaled_identity(5, 0.0f));
  EXPECT_TRUE(factor.all_dead);
  EXPECT_FALSE(factor.failed);
  EXPECT_EQ(factor.dead.size(), 5u);
  EXPECT_TRUE(factor.attempts.empty());
  EXPECT_EQ(factor.retries(), 0);
}

// Eigenvalues 4 and -2 around a diagonal of 1: damping must exceed 2.
TEST(Hessian, DampingRisesTenfoldUntilItSuffices) {
  const HessianFactor factor = factor_of(matrix(2, {1.0f, 3.0f, 3.0f, 1.0f}));
  EXPECT_FALSE(factor.failed);
  ASSERT_EQ(factor.attempts.size(), 4u);
  const double expected[] = {0.01, 0.1, 1.0, 10.0};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(factor.attempts[i].damping, expected[i], 1e-12);
    EXPECT_EQ(factor.attempts[i].smallest_pivot > 0.0, i == 3) << i;
  }
  EXPECT_NEAR(factor.attempts[3].smallest_pivot, 11.0 - 9.0 / 11.0, 1e-9);
  EXPECT_EQ(factor.retries(), 3);
  EXPECT_TRUE(factor.is_heavily_damped());
  EXPECT_FALSE(factor_of(scaled_identity(2, 1.0f)).is_heavily_damped());
}

TEST(Hessian, EveryAttemptIsRecordedWhenAllFail) {
  const HessianFactor factor = factor_of(matrix(2, {1.0f, 1e7f, 1e7f, 1.0f}));
  EXPECT_TRUE(factor.failed);
  ASSERT_EQ(factor.attempts.size(), 6u);
  EXPECT_NEAR(factor.attempts.back().damping, 1000.0, 1e-9);
  for (const DampingAttempt& attempt : factor.attempts) EXPECT_EQ(attempt.smallest_pivot, 0.0);
  EXPECT_EQ(factor_of(matrix(2, {1.0f, 1e7f, 1e7f, 1.0f}), {.max_retries = 0}).attempts.size(), 1u);
}

// Fewer tokens than channels: singular without damping, fine with it.
TEST(Hessian, RankDeficientMomentsNeedNoRetry) {
  const HessianFactor factor = factor_of(correlated_moment(64, 2, /*tokens=*/8));
  EXPECT_EQ(factor.retries(), 0);
  EXPECT_FALSE(factor.failed);
}

TEST(Hessian, BadMomentsAreNamed) {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinity = std::numeric_limits<float>::infinity();
  struct Case {
    std::vector<float> values;
    const char* words;
  };
  const Case cases[] = {
      {{1.0f, nan, nan, 1.0f}, "\"model.w\": second moment of the inputs is not finite at [0,1] (got NaN"},
      {{1.0f, 0.0f, infinity, 1.0f}, "not finite at [1,0] (got Inf"},
      {{1.0f, 0.5f, 0.4f, 1.0f}, "not symmetric at [1,0]"},
      {{1.0f, 0.0f, 0.0f, -1.0f}, "negative diagonal at [1,1]"},
  };
  for (const Case& bad : cases) {
    const auto refused = factor_hessian(matrix(2, bad.values), {}, "model.w");
    ASSERT_FALSE(refused.has_value()) << bad.words;
    EXPECT_EQ(refused.error().exit, Exit::numeric);
    EXPECT_EQ(refused.error().rule, "NU09");
    EXPECT_NE(format_error(refused.error()).find(bad.words), std::string::npos)
        << format_error(refused.error());
  }
  // Within 1e-6 of the largest entry is rounding, not a fault.
  EXPECT_TRUE(factor_hessian(matrix(2, {1.0f, 0.5f, 0.5000005f, 1.0f}), {}, "w").has_value());
}

}  // namespace
}  // namespace pare::test
