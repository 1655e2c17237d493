#include "evaluate/statistics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/core/random.h"

namespace pare {
namespace {

std::vector<double> samples(size_t count, uint32_t stream) {
  const Random random(5, RandomPurpose::test_data, stream);
  std::vector<double> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = 3.0 + random.normal(i);
  return values;
}

TEST(Statistics, MeanAndErrorOfKnownNumbers) {
  const std::vector<double> values = {1, 2, 3, 4};
  const Mean mean = mean_of(values);
  EXPECT_DOUBLE_EQ(mean.value, 2.5);
  EXPECT_DOUBLE_EQ(mean.error, std::sqrt(5.0 / 3.0 / 4.0));
}

TEST(Statistics, QuantileInterpolates) {
  const std::vector<double> values = {0, 10, 20, 30};
  EXPECT_DOUBLE_EQ(quantile(values, 0.0), 0.0);
  EXPECT_DOUBLE_EQ(quantile(values, 0.5), 15.0);
  EXPECT_DOUBLE_EQ(quantile(values, 1.0), 30.0);
  EXPECT_DOUBLE_EQ(quantile(values, 0.9), 27.0);
}

TEST(Statistics, PerplexityOfUniformModelIsItsVocabulary) {
  const std::vector<double> nll(100, std::log(50.0));
  const std::vector<int64_t> windows(10, 10);
  const Perplexity perplexity = perplexity_of(nll, windows);
  EXPECT_NEAR(perplexity.value, 50.0, 1e-10);
  EXPECT_NEAR(perplexity.error, 0.0, 1e-6);
  EXPECT_EQ(perplexity.tokens, 100);
}

TEST(Statistics, WindowErrorNeedsEightWindows) {
  const std::vector<double> nll = samples(70, 1);
  EXPECT_EQ(perplexity_of(nll, std::vector<int64_t>(7, 10)).window_error, 0.0);
  EXPECT_GT(perplexity_of(nll, std::vector<int64_t>(10, 7)).window_error, 0.0);
}

TEST(Statistics, AModelAgainstItself) {
  const std::vector<double> nll = samples(200, 2), kl(200, 0.0);
  const Damage damage = damage_of(nll, nll, kl, std::vector<uint8_t>(200, 1));
  EXPECT_EQ(damage.kl.value, 0.0);
  EXPECT_EQ(damage.log_ratio, 0.0);
  EXPECT_EQ(damage.delta_perplexity, 0.0);
  EXPECT_EQ(damage.top1_agreement.value, 1.0);
  EXPECT_EQ(damage.rms_probability_change, 0.0);
}

// The paired error of ln(ppl/ppl_ref) equals sqrt(u_c^2 + u_o^2 - 2 cov), and is far below the unpaired one.
TEST(Statistics, PairedErrorIdentity) {
  const std::vector<double> reference = samples(5000, 3);
  std::vector<double> nll = reference;
  const std::vector<double> noise = samples(5000, 4);
  for (size_t i = 0; i < nll.size(); ++i) nll[i] += 0.01 + 0.05 * (noise[i] - 3.0);
  const Damage damage =
      damage_of(nll, reference, std::vector<double>(5000, 0.1), std::vector<uint8_t>(5000, 1));
  const Mean own = mean_of(nll), other = mean_of(reference);
  double covariance = 0;
  for (size_t i = 0; i < nll.size(); ++i) covariance += (nll[i] - own.value) * (reference[i] - other.value);
  covariance /= 5000.0 * 4999.0;
  EXPECT_NEAR(damage.log_ratio_error,
              std::sqrt(own.error * own.error + other.error * other.error - 2 * covariance), 1e-12);
  EXPECT_LT(damage.log_ratio_error, 0.1 * std::hypot(own.error, other.error));
  EXPECT_NEAR(damage.log_ratio, 0.01, 4 * damage.log_ratio_error);
}

TEST(Statistics, KlQuantilesAreOrdered) {
  std::vector<double> kl(1000);
  for (size_t i = 0; i < kl.size(); ++i) kl[i] = double(999 - i);
  const std::vector<double> nll(1000, 1.0);
  const Damage damage = damage_of(nll, nll, kl, std::vector<uint8_t>(1000, 0));
  EXPECT_DOUBLE_EQ(damage.kl_median, 499.5);
  EXPECT_DOUBLE_EQ(damage.kl_p99, 989.01);
  EXPECT_DOUBLE_EQ(damage.kl_max, 999.0);
  EXPECT_EQ(damage.top1_agreement.value, 0.0);
}

}  // namespace
}  // namespace pare
