#include "quantize/smoothquant.h"

#include <algorithm>
#include <cmath>

#include "engine/core/parallel.h"
#include "quantize/scale_losses.h"

namespace pare {
namespace {

constexpr int64_t kColumns = 256;  // of one item: a row of them is read at once

}  // namespace

std::vector<float> smooth_scale(std::span<const float> activation_max, std::span<const float> weight_max,
                                double alpha) {
  constexpr float kFloor = 1e-5f;
  std::vector<float> scale;
  for (size_t j = 0; j < activation_max.size(); ++j) {
    if (activation_max[j] == 0.0f) {
      scale.push_back(1.0f);
      continue;
    }
    const float activation = std::max(activation_max[j], kFloor);
    if (weight_max[j] == 0.0f) {
      scale.push_back(activation);
      continue;
    }
    const double value =
        std::pow(double(activation), alpha) / std::pow(double(std::max(weight_max[j], kFloor)), 1.0 - alpha);
    scale.push_back(std::max(float(value), kFloor));
  }
  return scale;
}

std::vector<float> column_max(std::span<const Tensor> weights) {
  PARE_ASSERT(!weights.empty(), "[smoothquant] no weights for {} matrices", weights.size());
  const int64_t in = weights.front().size(1);
  std::vector<float> largest(static_cast<size_t>(in), 0.0f);
  for (const Tensor& weight : weights) {
    const float* w = weight.data<float>();
    parallel_ranges(in, kColumns, [&](int64_t begin, int64_t end) {
      for (int64_t row = 0; row < weight.size(0); ++row)
        for (int64_t j = begin; j < end; ++j)
          largest[size_t(j)] = std::max(largest[size_t(j)], std::abs(w[row * in + j]));
    });
  }
  return largest;
}

namespace {

// Per column: sum of w^2 over the rows.
std::vector<double> column_squares(const Tensor& weight) {
  const int64_t out = weight.size(0), in = weight.size(1);
  std::vector<double> squares(static_cast<size_t>(in), 0.0);
  const float* w = weight.data<float>();
  parallel_ranges(in, kColumns, [&](int64_t begin, int64_t end) {
    for (int64_t row = 0; row < out; ++row)
      for (int64_t j = begin; j < end; ++j)
        squares[size_t(j)] += double(w[row * in + j]) * double(w[row * in + j]);
  });
  return squares;
}

// Variance of the rounding of activations under a scale, per value, summed over tokens.
double noise_of(std::span<const float> activation_max, const float* scale, int64_t tokens) {
  double largest = 0.0;
  for (size_t j = 0; j < activation_max.size(); ++j)
    largest = std::max(largest, double(activation_max[j]) / double(scale[j]));
  const double step = largest / 127.0;
  return double(tokens) * step * step / 12.0;
}

// Output errors of both roundings, for each row of scales.
Result<std::vector<double>> smooth_losses(std::span<const Tensor> weights,
                                          std::span<const QuantScheme> schemes,
                                          std::span<const float> activation_max,
                                          std::span<const float> scales, int64_t tokens,
                                          ScaleLosses& search) {
  const size_t in = activation_max.size(), candidates = scales.size() / in;
  std::vector<double> totals(candidates, 0.0);
  for (size_t i = 0; i < weights.size(); ++i) {
    PARE_TRY(const std::vector<double> rounding, search.of(weights[i], schemes[i], scales, "smoothquant"));
    const std::vector<double> squares = column_squares(weights[i]);
    for (size_t c = 0; c < candidates; ++c) {
      const float* scale = scales.data() + c * in;
      double energy = 0.0;  // of the scaled weights, which the activations' noise is multiplied with
      for (size_t j = 0; j < in; ++j) energy += squares[j] * double(scale[j]) * double(scale[j]);
      totals[c] += rounding[c] + noise_of(activation_max, scale, tokens) * energy;
    }
  }
  return totals;
}

}  // namespace

Result<SmoothChoice> search_smooth_alpha(std::span<const Tensor> weights,
                                         std::span<const QuantScheme> schemes,
                                         std::span<const float> activation_max,
                                         std::span<const float> weight_max, const Tensor& moment,
                                         int64_t tokens) {
  std::vector<float> scales(activation_max.size(), 1.0f);  // first without one
  std::vector<double> alphas;
  for (int step = 0; step <= 13; ++step) {
    alphas.push_back(0.3 + 0.05 * step);
    const std::vector<float> scale = smooth_scale(activation_max, weight_max, alphas.back());
    scales.insert(scales.end(), scale.begin(), scale.end());
  }
  const QuantizeOptions options;
  ScaleLosses search(moment, options);
  PARE_TRY(const std::vector<double> losses,
           smooth_losses(weights, schemes, activation_max, scales, tokens, search));
  SmoothChoice best;
  double best_loss = INFINITY;
  for (size_t i = 0; i < alphas.size(); ++i) {
    if (!(losses[i + 1] < best_loss)) continue;
    best_loss = losses[i + 1];
    best.alpha = alphas[i];
  }
  best.loss_ratio = losses[0] > 0.0 ? std::sqrt(best_loss / losses[0]) : 1.0;
  best.host_reason = search.host_reason();
  return best;
}

}  // namespace pare
