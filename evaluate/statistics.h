// evaluate/statistics.h: means with error bars, order statistics and paired comparisons. All sums in double
// and in index order. Source: docs/methods.md.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace pare {

struct Mean {
  double value = 0.0;
  double error = 0.0;  // standard error; 0 below two samples
  int64_t count = 0;
};
Mean mean_of(std::span<const double> samples);

// Linear interpolation between order statistics at fraction * (n - 1); `sorted` ascending and not empty.
double quantile(std::span<const double> sorted, double fraction);

struct Perplexity {
  double value = 0.0;
  double error = 0.0;         // perplexity * standard error of the mean nll over tokens
  double window_error = 0.0;  // the same from the spread of window means; 0 below eight windows
  double mean_nll = 0.0;      // nats per token
  int64_t tokens = 0;
};
// nll per scored token; window_sizes: how many of them belong to each window, in order.
Perplexity perplexity_of(std::span<const double> nll, std::span<const int64_t> window_sizes);

// Two models on the same tokens.
struct Damage {
  Mean kl;  // nats per token, KL(reference, model)
  double kl_median = 0, kl_p90 = 0, kl_p95 = 0, kl_p99 = 0, kl_p999 = 0, kl_max = 0;
  Mean top1_agreement;  // share of tokens with the same best id; error sqrt(p(1-p)/(n-1))
  double log_ratio = 0, log_ratio_error = 0;                       // ln(ppl / ppl_reference), paired
  double delta_perplexity = 0, delta_perplexity_error = 0;         // ppl - ppl_reference, with covariance
  double mean_probability_change = 0, rms_probability_change = 0;  // of the true token
};
Damage damage_of(std::span<const double> nll, std::span<const double> reference_nll,
                 std::span<const double> kl, std::span<const uint8_t> same_best);

}  // namespace pare
