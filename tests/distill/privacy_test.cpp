#include "distill/privacy.h"

#include <gtest/gtest.h>

#include <cmath>

namespace pare {
namespace {

TEST(Privacy, WithoutSamplingItIsTheGaussianMechanism) {
  for (const double sigma : {0.5, 1.0, 4.0, 100.0})
    for (const int order : {2, 3, 32, 256})
      EXPECT_DOUBLE_EQ(renyi_divergence(1.0, sigma, order), double(order) / (2.0 * sigma * sigma));
  // And is approached by rates close to one.
  EXPECT_NEAR(renyi_divergence(1.0 - 1e-12, 2.0, 7), 7.0 / 8.0, 1e-9);
}

// E_{x ~ N(0, sigma^2)} [((1 - q) + q exp((2 x - 1) / (2 sigma^2)))^a] by the trapezoidal rule, which for
// such an integrand is exact to rounding: the definition of the divergence, without binomials.
double integrated(double q, double sigma, int order) {
  const double variance = sigma * sigma;
  const double low = -14.0 * sigma, high = double(order) + 14.0 * sigma;
  constexpr int kPoints = 20'000;
  const double step = (high - low) / kPoints;
  long double sum = 0.0L;
  for (int i = 0; i <= kPoints; ++i) {
    const double x = low + step * i;
    const long double ratio = (1.0L - q) + q * std::exp((2.0L * x - 1.0L) / (2.0L * variance));
    sum +=
        std::exp(static_cast<long double>(order) * std::log(ratio) - (long double)(x)*x / (2.0L * variance));
  }
  const double moment = double(sum * step / (std::sqrt(2.0L * 3.14159265358979323846264L) * sigma));
  return std::log(moment) / (order - 1);
}

TEST(Privacy, EqualsTheIntegralThatDefinesIt) {
  for (const double q : {0.01, 0.1, 0.5, 0.9})
    for (const double sigma : {0.8, 1.0, 4.0})
      for (const int order : {2, 3, 8, 20}) {
        const double expected = integrated(q, sigma, order);
        EXPECT_NEAR(renyi_divergence(q, sigma, order), expected, 1e-9 * (1.0 + expected))
            << q << " " << sigma << " " << order;
      }
}

// The same sum with 60 digits (mpmath): also where the divergence is far below the rounding of one.
TEST(Privacy, EqualsSixtyDigits) {
  const auto near = [](double got, double expected) { EXPECT_NEAR(got, expected, 1e-11 * expected); };
  near(renyi_divergence(0.01, 4.0, 32), 0.00010526360659081726);
  near(renyi_divergence(0.001, 1.0, 2), 1.7182803522145153e-6);
  near(renyi_divergence(1e-6, 2.0, 10), 1.420130615763269e-12);
  near(renyi_divergence(1e-7, 3.0, 2), 1.1751906874186358e-15);
  near(renyi_divergence(0.3, 0.5, 256), 510.79130573369632);
}

TEST(Privacy, EpsilonsOfWholeRuns) {
  // Abadi et al. (2016), section 3.2: q = 0.01, sigma = 4, 10,000 steps, delta = 1e-5 give 1.26.
  const PrivacySpent paper =
      privacy_spent({.sampling_rate = 0.01, .noise_multiplier = 4.0, .delta = 1e-5}, 10'000);
  EXPECT_NEAR(paper.epsilon, 1.26, 0.005);
  EXPECT_NEAR(paper.epsilon, 1.2585747412527875, 1e-11);
  EXPECT_EQ(paper.order, 20);
  const auto spent = [](double q, double sigma, double delta, int64_t steps) {
    return privacy_spent({.sampling_rate = q, .noise_multiplier = sigma, .delta = delta}, steps).epsilon;
  };
  EXPECT_NEAR(spent(0.001, 1.0, 1e-6, 100'000), 2.3169575738968606, 1e-10);
  EXPECT_NEAR(spent(0.02, 0.8, 1e-5, 500), 6.1467991073028512, 1e-10);
  EXPECT_NEAR(spent(1e-6, 2.0, 1e-9, 1000), 0.19012172781742994, 1e-10);
  EXPECT_NEAR(spent(0.5, 10.0, 1e-5, 100), 2.5595656432690364, 1e-10);
  EXPECT_EQ(spent(0.5, 10.0, 1e-5, 0), 0.0);
}

TEST(Privacy, MoreStepsOrLessNoiseSpendMore) {
  double last = 0.0;
  for (const int64_t steps : {1, 10, 100, 1000, 1'000'000}) {
    const double epsilon = privacy_spent({.sampling_rate = 0.05, .noise_multiplier = 1.1}, steps).epsilon;
    EXPECT_GT(epsilon, last);
    last = epsilon;
  }
  for (const double noise : {10.0, 2.0, 1.0, 0.5, 0.01}) {
    const double epsilon =
        privacy_spent({.sampling_rate = 0.05, .noise_multiplier = noise}, 1'000'000).epsilon;
    EXPECT_GE(epsilon, noise == 10.0 ? 0.0 : last);
    EXPECT_TRUE(std::isfinite(epsilon));
    last = epsilon;
  }
}

TEST(Privacy, NoiseForAnEpsilonIsJustEnough) {
  const PrivacyPlan plan{.sampling_rate = 0.01, .delta = 1e-5};
  for (const double epsilon : {0.5, 1.26, 8.0}) {
    const auto noise = noise_for_epsilon(plan, 10'000, epsilon);
    ASSERT_TRUE(noise);
    PrivacyPlan with = plan;
    with.noise_multiplier = *noise;
    EXPECT_LE(privacy_spent(with, 10'000).epsilon, epsilon);
    with.noise_multiplier = *noise - 1e-4;
    EXPECT_GT(privacy_spent(with, 10'000).epsilon, epsilon);
  }
  EXPECT_EQ(noise_for_epsilon(plan, 10'000, 1e-3).error().path, "--dp-epsilon");
  EXPECT_EQ(noise_for_epsilon(plan, 10'000, std::nan("")).error().path, "--dp-epsilon");
}

TEST(Privacy, RefusesWhatIsNoPlan) {
  const auto option = [](const PrivacyPlan& plan) {
    const Status status = plan.validate();
    return status ? std::string("accepted") : status.error().path;
  };
  EXPECT_EQ(option({.sampling_rate = 0.1}), "accepted");
  EXPECT_EQ(option({.sampling_rate = 0.0}), "--batch");
  EXPECT_EQ(option({.sampling_rate = 1.5}), "--batch");
  EXPECT_EQ(option({.sampling_rate = 0.1, .noise_multiplier = 0.0}), "--dp-noise");
  EXPECT_EQ(option({.sampling_rate = 0.1, .noise_multiplier = std::nan("")}), "--dp-noise");
  EXPECT_EQ(option({.sampling_rate = 0.1, .delta = 0.0}), "--dp-delta");
}

}  // namespace
}  // namespace pare
