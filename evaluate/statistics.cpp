#include "evaluate/statistics.h"

#include <algorithm>
#include <cmath>

#include "engine/core/assert.h"

namespace pare {
namespace {

double sum_of(std::span<const double> values) {
  double sum = 0.0;
  for (double value : values) sum += value;
  return sum;
}

// sum (a - mean_a)(b - mean_b) / (n - 1) / n: the covariance of two means.
double covariance_of_means(std::span<const double> a, double mean_a, std::span<const double> b,
                           double mean_b) {
  if (a.size() < 2) return 0.0;
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - mean_a) * (b[i] - mean_b);
  const double n = double(a.size());
  return sum / (n - 1.0) / n;
}

}  // namespace

Mean mean_of(std::span<const double> samples) {
  Mean mean;
  mean.count = int64_t(samples.size());
  if (samples.empty()) return mean;
  mean.value = sum_of(samples) / double(samples.size());
  mean.error = std::sqrt(covariance_of_means(samples, mean.value, samples, mean.value));
  return mean;
}

double quantile(std::span<const double> sorted, double fraction) {
  PARE_ASSERT(!sorted.empty(), "[statistics] quantile of nothing");
  const double position = fraction * double(sorted.size() - 1);
  const size_t below = size_t(position), above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (position - double(below)) * (sorted[above] - sorted[below]);
}

Perplexity perplexity_of(std::span<const double> nll, std::span<const int64_t> window_sizes) {
  Perplexity result;
  const Mean mean = mean_of(nll);
  result.tokens = mean.count;
  result.mean_nll = mean.value;
  result.value = std::exp(mean.value);
  result.error = result.value * mean.error;
  if (window_sizes.size() >= 8) {
    std::vector<double> means;
    size_t begin = 0;
    for (int64_t size : window_sizes) {
      if (size > 0) means.push_back(sum_of(nll.subspan(begin, size_t(size))) / double(size));
      begin += size_t(size);
    }
    result.window_error = result.value * mean_of(means).error;
  }
  return result;
}

Damage damage_of(std::span<const double> nll, std::span<const double> reference_nll,
                 std::span<const double> kl, std::span<const uint8_t> same_best) {
  PARE_ASSERT(nll.size() == reference_nll.size() && nll.size() == kl.size() && nll.size() == same_best.size(),
              "[statistics] {} tokens against {}", nll.size(), reference_nll.size());
  Damage damage;
  if (nll.empty()) return damage;
  const double n = double(nll.size());
  damage.kl = mean_of(kl);
  std::vector<double> sorted(kl.begin(), kl.end());
  std::sort(sorted.begin(), sorted.end());
  damage.kl_median = quantile(sorted, 0.5);
  damage.kl_p90 = quantile(sorted, 0.9);
  damage.kl_p95 = quantile(sorted, 0.95);
  damage.kl_p99 = quantile(sorted, 0.99);
  damage.kl_p999 = quantile(sorted, 0.999);
  damage.kl_max = sorted.back();

  const double same = double(std::count(same_best.begin(), same_best.end(), uint8_t(1))) / n;
  damage.top1_agreement = {same, nll.size() > 1 ? std::sqrt(same * (1.0 - same) / (n - 1.0)) : 0.0,
                           int64_t(nll.size())};

  std::vector<double> differences(nll.size()), changes(nll.size());
  double squares = 0.0;
  for (size_t i = 0; i < nll.size(); ++i) {
    differences[i] = nll[i] - reference_nll[i];
    changes[i] = std::exp(-nll[i]) - std::exp(-reference_nll[i]);
    squares += changes[i] * changes[i];
  }
  const Mean paired = mean_of(differences);
  damage.log_ratio = paired.value;
  damage.log_ratio_error = paired.error;
  damage.mean_probability_change = sum_of(changes) / n;
  damage.rms_probability_change = std::sqrt(squares / n);

  const Mean own = mean_of(nll), reference = mean_of(reference_nll);
  const double ppl = std::exp(own.value), reference_ppl = std::exp(reference.value);
  damage.delta_perplexity = ppl - reference_ppl;
  // sqrt((ppl u_c)^2 + (ppl_o u_o)^2 - 2 ppl ppl_o cov), as the spread of one difference per token: nothing
  // cancels, so a model against itself gives exactly 0.
  for (size_t i = 0; i < nll.size(); ++i) differences[i] = ppl * nll[i] - reference_ppl * reference_nll[i];
  damage.delta_perplexity_error = mean_of(differences).error;
  return damage;
}

}  // namespace pare
