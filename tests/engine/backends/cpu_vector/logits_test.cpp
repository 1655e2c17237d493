// Cross entropy and divergence against sums in double, and their behaviour at the ends.
#include <gtest/gtest.h>

#include <algorithm>

#include "engine/backends/cpu/kernels.h"
#include "tests/engine/backends/cpu_vector/support.h"

namespace pare::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Loss {
  double log_sum_exp, nll;
  int32_t best;
};

class LogitsTest : public testing::TestWithParam<Isa> {
 protected:
  static Loss cross_entropy(const std::vector<float>& logits, int32_t target) {
    Loss loss{};
    const int64_t n = int64_t(logits.size());
    kernels(GetParam())
        .cross_entropy({.logits = logits.data(),
                        .targets = &target,
                        .log_sum_exp = &loss.log_sum_exp,
                        .nll = &loss.nll,
                        .best = &loss.best,
                        .rows = 1,
                        .columns = n,
                        .stride = n},
                       0, 1);
    return loss;
  }
  static double divergence(const std::vector<float>& p, const std::vector<float>& q) {
    const double p_sum = cross_entropy(p, 0).log_sum_exp;
    const double q_sum = cross_entropy(q, 0).log_sum_exp;
    double kl = -1.0;
    const int64_t n = int64_t(p.size());
    kernels(GetParam())
        .divergence({.logits_p = p.data(),
                     .logits_q = q.data(),
                     .log_sum_exp_p = &p_sum,
                     .log_sum_exp_q = &q_sum,
                     .kl = &kl,
                     .rows = 1,
                     .columns = n,
                     .p_stride = n,
                     .q_stride = n},
                    0, 1);
    return kl;
  }
  static double exact_log_sum_exp(const std::vector<float>& x) {
    const double largest = double(*std::max_element(x.begin(), x.end()));
    double sum = 0.0;
    for (const float v : x) sum += std::exp(double(v) - largest);
    return largest + std::log(sum);
  }
  static double exact_divergence(const std::vector<float>& p, const std::vector<float>& q) {
    const double p_sum = exact_log_sum_exp(p);
    const double q_sum = exact_log_sum_exp(q);
    double kl = 0.0;
    for (size_t i = 0; i < p.size(); ++i) {
      const double log_p = double(p[i]) - p_sum;
      kl += std::exp(log_p) * (log_p - (double(q[i]) - q_sum));
    }
    return kl;
  }
};

TEST_P(LogitsTest, CrossEntropyOfManyLengths) {
  for (const int64_t n :
       {1, 2, 7, 16, 33, 63, 64, 65, 1'000, 2'047, 2'048, 2'049, 2'064, 6'143, 49'152, 50'257}) {
    const std::vector<float> x = random_floats(n, -20.0f, 20.0f, uint32_t(n));
    const int32_t target = int32_t(n / 2);
    const Loss loss = cross_entropy(x, target);
    const double exact = exact_log_sum_exp(x);
    // Each term errs by an ulp and half an ulp of its argument; errors are independent, the bound is not.
    EXPECT_NEAR(loss.log_sum_exp, exact, 2e-6) << n;
    EXPECT_EQ(loss.nll, loss.log_sum_exp - double(x[size_t(target)])) << n;
    EXPECT_EQ(loss.best, std::max_element(x.begin(), x.end()) - x.begin()) << n;
  }
}

// The maximum grows from piece to piece, and falls from piece to piece.
TEST_P(LogitsTest, CrossEntropyRescalesBetweenPieces) {
  for (const float slope : {0.01f, -0.01f}) {
    std::vector<float> x(9'000);
    for (size_t i = 0; i < x.size(); ++i) x[i] = slope * float(i);
    EXPECT_NEAR(cross_entropy(x, 0).log_sum_exp, exact_log_sum_exp(x), 2e-6);
    EXPECT_EQ(cross_entropy(x, 0).best, slope > 0 ? 8'999 : 0);
  }
}

TEST_P(LogitsTest, TiesGoToTheSmallestId) {
  for (const size_t first : {0u, 5u, 15u, 16u, 2047u, 2048u, 4500u}) {
    std::vector<float> x(5'000, -1.0f);
    for (size_t i = first; i < x.size(); i += 37) x[i] = 2.5f;
    EXPECT_EQ(cross_entropy(x, 1).best, int32_t(first));
  }
  EXPECT_EQ(cross_entropy(std::vector<float>(3'000, 0.0f), 1).best, 0);
  EXPECT_NEAR(cross_entropy(std::vector<float>(3'000, 0.0f), 1).nll, std::log(3'000.0), 1e-12);
}

TEST_P(LogitsTest, ANegativeTargetHasNoLoss) {
  EXPECT_EQ(cross_entropy({1.0f, 2.0f}, -1).nll, 0.0);
}

TEST_P(LogitsTest, CrossEntropyAtTheEnds) {
  std::vector<float> x(3'000, -kInfinity);
  EXPECT_EQ(cross_entropy(x, 0).log_sum_exp, -double(kInfinity));
  EXPECT_EQ(cross_entropy(x, 0).best, 0);
  x[2'500] = 1.25f;
  EXPECT_EQ(cross_entropy(x, 2'500).log_sum_exp, 1.25);
  EXPECT_EQ(cross_entropy(x, 2'500).nll, 0.0);
  EXPECT_EQ(cross_entropy(x, 0).nll, double(kInfinity));
  EXPECT_EQ(cross_entropy(x, 0).best, 2'500);
  x[17] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(cross_entropy(x, 0).log_sum_exp));
  EXPECT_NEAR(cross_entropy({3e38f, 3e38f}, 0).nll, 0.0, 1e32);
  EXPECT_NEAR(cross_entropy({-3e38f, -3e38f}, 0).log_sum_exp, -double(3e38f), 1e24);
}

TEST_P(LogitsTest, DivergenceOfManyLengths) {
  for (const int64_t n : {1, 2, 15, 16, 17, 1'000, 50'257}) {
    const std::vector<float> p = random_floats(n, -8.0f, 8.0f, uint32_t(n));
    const std::vector<float> q = random_floats(n, -8.0f, 8.0f, uint32_t(n) + 1);
    const double exact = exact_divergence(p, q);
    EXPECT_NEAR(divergence(p, q), exact, 1e-6 * (1.0 + std::abs(exact))) << n;
  }
}

TEST_P(LogitsTest, DivergenceOfCloseDistributionsKeepsItsDigits) {
  const std::vector<float> p = random_floats(32'000, -8.0f, 8.0f, 1);
  std::vector<float> q = p;
  const std::vector<float> noise = random_floats(32'000, -1e-2f, 1e-2f, 2);
  for (size_t i = 0; i < q.size(); ++i) q[i] += noise[i];
  const double exact = exact_divergence(p, q);
  ASSERT_GT(exact, 1e-6);
  EXPECT_NEAR(divergence(p, q), exact, 1e-3 * exact);
}

TEST_P(LogitsTest, DivergenceOfEqualDistributionsIsExactlyZero) {
  for (const int64_t n : {1, 17, 32'000}) {
    std::vector<float> p = random_floats(n, -30.0f, 30.0f, 9);
    EXPECT_EQ(divergence(p, p), 0.0);
    if (n > 1) p[1] = -kInfinity;  // an id that both exclude
    EXPECT_EQ(divergence(p, p), 0.0);
  }
}

// Shifting all logits changes nothing but rounding.
TEST_P(LogitsTest, DivergenceIgnoresAShift) {
  const std::vector<float> p = random_floats(4'096, -8.0f, 8.0f, 3);
  std::vector<float> q = p;
  for (float& v : q) v += 16.0f;
  EXPECT_NEAR(divergence(p, q), 0.0, 2e-6);
}

TEST_P(LogitsTest, DivergenceIsInfiniteWhereTheSecondExcludes) {
  EXPECT_EQ(divergence({0.0f, 0.0f}, {0.0f, -kInfinity}), double(kInfinity));
  EXPECT_NEAR(divergence({0.0f, -kInfinity}, {0.0f, 0.0f}), std::log(2.0), 1e-7);
}

INSTANTIATE_TEST_SUITE_P(Levels, LogitsTest, testing::ValuesIn(host_levels()),
                         [](const auto& info) { return std::string(isa_name(info.param)); });

}  // namespace
}  // namespace pare::cpu
