#include "distill/privacy.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "engine/core/assert.h"

namespace pare {
namespace {

constexpr int kFirstOrder = 2, kLastOrder = 256;
constexpr double kLeastNoise = 0.01, kMostNoise = 1e4;

Error out_of_range(const char* option, double got, std::string expected) {
  return Error{.exit = Exit::usage,
               .rule = "CL06",
               .path = option,
               .what = "out of range",
               .got = fmt::format("{}", got),
               .limit = std::move(expected),
               .limit_label = "expected"};
}

// ln(exp(x) - 1) of x > 0.
double log_expm1(double x) {
  return x > 30.0 ? x + std::log1p(-std::exp(-x)) : std::log(std::expm1(x));
}

}  // namespace

Status PrivacyPlan::validate() const {
  if (!(sampling_rate > 0.0 && sampling_rate <= 1.0))
    return out_of_range("--batch", sampling_rate, "a share of the windows in (0, 1]");
  if (!(noise_multiplier >= kLeastNoise && noise_multiplier <= kMostNoise))
    return out_of_range("--dp-noise", noise_multiplier, fmt::format("{} to {}", kLeastNoise, kMostNoise));
  if (!(delta > 0.0 && delta < 1.0)) return out_of_range("--dp-delta", delta, "above 0 and below 1");
  return {};
}

// Without the exponentials the terms are a binomial distribution and add up to one, so the sum is
//   1 + sum_{k=2..a} binom(a, k) (1 - q)^(a - k) q^k (exp((k^2 - k) / (2 sigma^2)) - 1),
// whose logarithm loses nothing when it is close to zero.
double renyi_divergence(double sampling_rate, double noise_multiplier, int order) {
  PARE_ASSERT(order >= kFirstOrder && order <= kLastOrder, "[privacy] order {}", order);
  const double variance = noise_multiplier * noise_multiplier;
  if (sampling_rate >= 1.0) return double(order) / (2.0 * variance);
  const double log_q = std::log(sampling_rate), log_rest = std::log1p(-sampling_rate);
  std::array<double, size_t{kLastOrder} + 1> terms;  // logarithms
  double log_binomial = 0.0, largest = -std::numeric_limits<double>::infinity();
  for (int k = 1; k <= order; ++k) {
    log_binomial += std::log(double(order - k + 1) / double(k));
    if (k == 1) continue;
    const double exponent = double(k) * double(k - 1) / (2.0 * variance);
    terms[size_t(k)] = log_binomial + double(order - k) * log_rest + double(k) * log_q + log_expm1(exponent);
    largest = std::max(largest, terms[size_t(k)]);
  }
  double sum = 0.0;
  for (int k = 2; k <= order; ++k) sum += std::exp(terms[size_t(k)] - largest);
  const double log_excess = largest + std::log(sum);
  const double log_moment =
      log_excess > 30.0 ? log_excess + std::log1p(std::exp(-log_excess)) : std::log1p(std::exp(log_excess));
  return log_moment / double(order - 1);
}

PrivacySpent privacy_spent(const PrivacyPlan& plan, int64_t steps) {
  PARE_ASSERT(steps >= 0 && plan.validate().has_value(), "[privacy] {} steps", steps);
  if (steps == 0) return {};
  PrivacySpent best{std::numeric_limits<double>::infinity(), kFirstOrder};
  for (int order = kFirstOrder; order <= kLastOrder; ++order) {
    const double divergence = renyi_divergence(plan.sampling_rate, plan.noise_multiplier, order);
    const double epsilon = double(steps) * divergence - std::log(plan.delta) / double(order - 1);
    if (epsilon < best.epsilon) best = {epsilon, order};
  }
  return best;
}

Result<double> noise_for_epsilon(const PrivacyPlan& plan, int64_t steps, double epsilon) {
  PrivacyPlan tried = plan;
  tried.noise_multiplier = kMostNoise;
  PARE_CHECK(tried.validate());
  const auto spends = [&](double noise) {
    tried.noise_multiplier = noise;
    return privacy_spent(tried, steps).epsilon;
  };
  // Even without any divergence the last order leaves ln(1 / delta) / 255.
  const double least = spends(kMostNoise);
  if (!(epsilon >= least))
    return out_of_range("--dp-epsilon", epsilon, fmt::format("at least {:.6g}", least));
  constexpr double kUnit = 1e-4;
  auto low = int64_t(kLeastNoise / kUnit),
       high = int64_t(kMostNoise / kUnit);  // the answer is in [low, high]
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (spends(double(middle) * kUnit) <= epsilon) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return double(high) * kUnit;
}

}  // namespace pare
