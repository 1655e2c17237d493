#include "quantize/awq.h"

#include <algorithm>
#include <cmath>

#include "engine/core/parallel.h"
#include "quantize/scale_losses.h"

namespace pare {
namespace {

// Mean over all rows of |w| / max|group of w|, per column.
std::vector<float> normalized_magnitude(std::span<const AwqLinear> linears, int64_t in) {
  std::vector<double> sums(static_cast<size_t>(in), 0.0);
  int64_t rows = 0;
  for (const AwqLinear& linear : linears) {
    const int64_t width = linear.scheme.group_width(in), out = linear.weight.size(0);
    const float* w = linear.weight.data<float>();
    rows += out;
    parallel_ranges((in + width - 1) / width, 1, [&](int64_t first, int64_t last) {
      for (int64_t g = first; g < last; ++g) {
        const int64_t begin = g * width, end = std::min(in, begin + width);
        for (int64_t r = 0; r < out; ++r) {
          float largest = 0.0f;
          for (int64_t j = begin; j < end; ++j) largest = std::max(largest, std::abs(w[r * in + j]));
          if (largest == 0.0f) continue;
          for (int64_t j = begin; j < end; ++j)
            sums[size_t(j)] += double(std::abs(w[r * in + j])) / double(largest);
        }
      }
    });
  }
  std::vector<float> means;
  for (const double sum : sums) means.push_back(float(sum / double(std::max<int64_t>(1, rows))));
  return means;
}

// At least 1e-4, and around 1: divided by sqrt(largest * smallest). Channels without input keep 1 and do not
// count.
void normalize(std::span<float> scale, std::span<const float> abs_mean) {
  float smallest = INFINITY, largest = 0.0f;
  for (size_t j = 0; j < scale.size(); ++j) {
    if (abs_mean[j] == 0.0f) continue;
    scale[j] = std::max(scale[j], 1e-4f);
    smallest = std::min(smallest, scale[j]);
    largest = std::max(largest, scale[j]);
  }
  const float middle = std::sqrt(largest * smallest);
  for (size_t j = 0; j < scale.size(); ++j) {
    scale[j] = abs_mean[j] == 0.0f ? 1.0f : scale[j] / middle;
    if (!std::isfinite(scale[j]) || scale[j] <= 0.0f) scale[j] = 1.0f;
  }
}

struct Candidate {
  bool is_duo = false;
  double exponent = 0.0;
};

// The identity, then every other scale in the order in which ties are decided; scales [candidates, in].
std::vector<Candidate> make_candidates(const AwqOptions& options, const std::vector<float>& activity,
                                       const std::vector<float>& magnitude, std::vector<float>& scales) {
  const size_t in = activity.size();
  std::vector<Candidate> candidates(1);
  scales.assign(in, 1.0f);
  std::vector<float> scale(in);
  for (int form = 0; form < (options.duo ? 2 : 1); ++form) {
    for (int step = form == 0 ? 1 : 0; step < options.steps; ++step) {  // a^0 is the identity
      const double exponent = double(step) / double(form == 0 ? options.steps : options.steps - 1);
      for (size_t j = 0; j < in; ++j) {
        double value = std::pow(double(activity[j]), exponent);
        if (form == 1) value /= std::pow(double(magnitude[j]), 1.0 - exponent) + 1e-4;
        scale[j] = float(value);
      }
      normalize(scale, activity);
      scales.insert(scales.end(), scale.begin(), scale.end());
      candidates.push_back({.is_duo = form == 1, .exponent = exponent});
    }
  }
  return candidates;
}

}  // namespace

Result<AwqScale> search_awq_scale(std::span<const AwqLinear> linears, std::span<const float> abs_mean,
                                  const Tensor& moment, const QuantizeOptions& quantize,
                                  const AwqOptions& options,
                                  const std::function<void(std::span<float>)>& share) {
  const auto in = int64_t(abs_mean.size());
  std::vector<float> activity(abs_mean.begin(), abs_mean.end());
  std::vector<float> magnitude = normalized_magnitude(linears, in);
  if (share) {
    share(activity);
    share(magnitude);
  }
  std::vector<float> scales;
  const std::vector<Candidate> candidates = make_candidates(options, activity, magnitude, scales);
  std::vector<double> losses(candidates.size(), 0.0);
  ScaleLosses search(moment, quantize);
  for (const AwqLinear& linear : linears) {
    PARE_TRY(const std::vector<double> found, search.of(linear.weight, linear.scheme, scales, linear.name));
    for (size_t c = 0; c < losses.size(); ++c) losses[c] += found[c];
  }

  size_t chosen = 0;
  for (size_t c = 1; c < losses.size(); ++c)
    if (losses[c] < losses[chosen]) chosen = c;
  AwqScale best;
  const auto first = scales.begin() + std::ptrdiff_t(chosen) * in;
  best.scale.assign(first, first + in);
  best.is_identity = chosen == 0;
  best.is_duo = candidates[chosen].is_duo;
  best.exponent = candidates[chosen].exponent;
  best.loss_ratio = losses[0] > 0.0 ? std::sqrt(losses[chosen] / losses[0]) : 1.0;
  best.host_reason = search.host_reason();
  return best;
}

}  // namespace pare
