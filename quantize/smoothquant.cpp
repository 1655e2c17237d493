#include "quantize/smoothquant.h"

#include <algorithm>
#include <cmath>

#include "calibrate/output_error.h"
#include "quantize/quantizer.h"

namespace pare {

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
    for (int64_t row = 0; row < weight.size(0); ++row)
      for (int64_t j = 0; j < in; ++j)
        largest[size_t(j)] = std::max(largest[size_t(j)], std::abs(w[row * in + j]));
  }
  return largest;
}

namespace {

// Output error of both roundings, for one scale.
Result<double> smooth_loss(std::span<const Tensor> weights, std::span<const QuantScheme> schemes,
                           std::span<const float> activation_max, std::span<const float> scale,
                           const Tensor& moment, int64_t tokens) {
  PARE_TRY(const QuantizeMethod* rtn, find_quantize_method("rtn"));
  double largest = 0.0;
  for (size_t j = 0; j < scale.size(); ++j)
    largest = std::max(largest, double(activation_max[j]) / double(scale[j]));
  const double step = largest / 127.0;
  double total = 0.0;
  for (size_t i = 0; i < weights.size(); ++i) {
    const int64_t out = weights[i].size(0), in = weights[i].size(1);
    PARE_TRY(Tensor scaled, Tensor::allocate(DType::f32, {out, in}));
    const float* w = weights[i].data<float>();
    float* s = scaled.mutable_data<float>();
    double energy = 0.0;
    for (int64_t row = 0; row < out; ++row) {
      for (int64_t j = 0; j < in; ++j) {
        s[row * in + j] = w[row * in + j] * scale[size_t(j)];
        energy += double(s[row * in + j]) * double(s[row * in + j]);
      }
    }
    QuantizeOptions options;
    options.clamp_scales = true;  // a candidate that does not fit only loses
    PARE_TRY(const QuantizeOutput rounded, rtn->quantize(scaled, schemes[i], options, "smoothquant"));
    for (int64_t row = 0; row < out; ++row) {
      rounded.tensor.dequantize_rows(row, row + 1, s + row * in);
      for (int64_t j = 0; j < in; ++j) s[row * in + j] = w[row * in + j] - s[row * in + j] / scale[size_t(j)];
    }
    PARE_TRY(const double weight_error, output_energy(scaled, moment));
    total += weight_error + double(tokens) * step * step / 12.0 * energy;
  }
  return total;
}

}  // namespace

Result<SmoothChoice> search_smooth_alpha(std::span<const Tensor> weights,
                                         std::span<const QuantScheme> schemes,
                                         std::span<const float> activation_max,
                                         std::span<const float> weight_max, const Tensor& moment,
                                         int64_t tokens) {
  const std::vector<float> ones(activation_max.size(), 1.0f);
  PARE_TRY(const double without, smooth_loss(weights, schemes, activation_max, ones, moment, tokens));
  SmoothChoice best;
  double best_loss = INFINITY;
  for (int step = 0; step <= 13; ++step) {
    const double alpha = 0.3 + 0.05 * step;
    const std::vector<float> scale = smooth_scale(activation_max, weight_max, alpha);
    PARE_TRY(const double loss, smooth_loss(weights, schemes, activation_max, scale, moment, tokens));
    if (!(loss < best_loss)) continue;
    best_loss = loss;
    best.alpha = alpha;
  }
  best.loss_ratio = without > 0.0 ? std::sqrt(best_loss / without) : 1.0;
  return best;
}

}  // namespace pare
