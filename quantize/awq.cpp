#include "quantize/awq.h"

#include <algorithm>
#include <cmath>

#include "calibrate/output_error.h"
#include "engine/core/parallel.h"

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

// ||X (W - Q(W s) / s)^T||^2
Result<double> loss_of(const AwqLinear& linear, std::span<const float> scale, const Tensor& moment,
                       const QuantizeOptions& options, const QuantizeMethod& rtn) {
  const int64_t out = linear.weight.size(0), in = linear.weight.size(1);
  PARE_TRY(Tensor scaled, Tensor::allocate(DType::f32, {out, in}));
  const float* w = linear.weight.data<float>();
  float* s = scaled.mutable_data<float>();
  parallel_ranges(out, 32, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t j = 0; j < in; ++j) s[r * in + j] = w[r * in + j] * scale[size_t(j)];
  });
  // The input is divided by the scale, and so is its share in the search of ranges.
  QuantizeOptions scaled_options = options;
  std::vector<float> importance(options.importance.begin(), options.importance.end());
  for (size_t j = 0; j < importance.size(); ++j) importance[j] /= scale[j] * scale[j];
  scaled_options.importance = importance;
  scaled_options.clamp_scales = true;  // a candidate that does not fit only loses
  PARE_TRY(const QuantizeOutput rounded, rtn.quantize(scaled, linear.scheme, scaled_options, linear.name));
  parallel_ranges(out, 32, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* row = s + r * in;
      rounded.tensor.dequantize_rows(r, r + 1, row);
      for (int64_t j = 0; j < in; ++j) row[j] = w[r * in + j] - row[j] / scale[size_t(j)];
    }
  });
  return output_energy(scaled, moment);
}

}  // namespace

Result<AwqScale> search_awq_scale(std::span<const AwqLinear> linears, std::span<const float> abs_mean,
                                  const Tensor& moment, const QuantizeOptions& quantize,
                                  const AwqOptions& options,
                                  const std::function<void(std::span<float>)>& share) {
  const auto in = int64_t(abs_mean.size());
  PARE_TRY(const QuantizeMethod* rtn, find_quantize_method("rtn"));
  std::vector<float> activity(abs_mean.begin(), abs_mean.end());
  std::vector<float> magnitude = normalized_magnitude(linears, in);
  if (share) {
    share(activity);
    share(magnitude);
  }
  const auto total_loss = [&](std::span<const float> scale) -> Result<double> {
    double sum = 0.0;
    for (const AwqLinear& linear : linears) {
      PARE_TRY(const double loss, loss_of(linear, scale, moment, quantize, *rtn));
      sum += loss;
    }
    return sum;
  };

  AwqScale best;
  best.scale.assign(size_t(in), 1.0f);
  PARE_TRY(const double identity, total_loss(best.scale));
  double best_loss = identity;
  std::vector<float> scale(static_cast<size_t>(in));
  for (int form = 0; form < (options.duo ? 2 : 1); ++form) {
    for (int step = form == 0 ? 1 : 0; step < options.steps; ++step) {  // a^0 is the identity
      const double exponent = double(step) / double(form == 0 ? options.steps : options.steps - 1);
      for (size_t j = 0; j < scale.size(); ++j) {
        double value = std::pow(double(activity[j]), exponent);
        if (form == 1) value /= std::pow(double(magnitude[j]), 1.0 - exponent) + 1e-4;
        scale[j] = float(value);
      }
      normalize(scale, activity);
      PARE_TRY(const double loss, total_loss(scale));
      if (!(loss < best_loss)) continue;
      best_loss = loss;
      best.scale = scale;
      best.is_identity = false;
      best.is_duo = form == 1;
      best.exponent = exponent;
    }
  }
  best.loss_ratio = identity > 0.0 ? std::sqrt(best_loss / identity) : 1.0;
  return best;
}

}  // namespace pare
