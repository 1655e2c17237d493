#include "distill/privacy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <vector>

#include "distill/private_gradients.h"

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

TEST(PrivateChoice, TakesEachWindowWithItsProbabilityInEveryStep) {
  constexpr int64_t kWindows = 2000;
  for (const double rate : {0.001, 0.05, 0.5, 1.0}) {
    int64_t chosen = 0, pairs = 0;
    std::vector<int64_t> last;
    for (int64_t step = 0; step < 200; ++step) {
      const std::vector<int64_t> now = sample_windows(77, step, kWindows, rate);
      EXPECT_TRUE(std::is_sorted(now.begin(), now.end()));
      EXPECT_EQ(now, sample_windows(77, step, kWindows, rate));
      chosen += int64_t(now.size());
      std::vector<int64_t> both;
      std::set_intersection(now.begin(), now.end(), last.begin(), last.end(), std::back_inserter(both));
      pairs += int64_t(both.size());
      last = now;
    }
    // Five deviations of the binomial; windows of two steps meet as often as if they knew nothing of each
    // other.
    const double all = 200.0 * kWindows, met = 199.0 * kWindows, rate2 = rate * rate;
    EXPECT_NEAR(double(chosen), all * rate, 5.0 * std::sqrt(all * rate * (1.0 - rate)));
    EXPECT_NEAR(double(pairs), met * rate2, 1e-9 + 8.0 * std::sqrt(met * rate2 * (1.0 - rate2)));
  }
  EXPECT_NE(sample_windows(77, 0, kWindows, 0.05), sample_windows(78, 0, kWindows, 0.05));
  // 24 bits would make this rate twice as large: 4.8 expected, not 2.4.
  int64_t rare = 0;
  for (int64_t step = 0; step < 40; ++step)
    rare += int64_t(sample_windows(5, step, 1'000'000, 1.0001 * 0x1p-24).size());
  EXPECT_LT(rare, 12);
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
