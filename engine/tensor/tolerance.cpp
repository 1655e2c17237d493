#include "engine/tensor/tolerance.h"

#include <algorithm>
#include <cmath>

#include "engine/tensor/float_formats.h"

namespace pare::tolerance {
namespace {

// Vector exp, tanh and erf are accurate to a few units in the last place; one constant for all of them.
constexpr double kFunction = 8.0 * kUnitRoundoff;

double load(const Tensor& tensor, int64_t index) {
  switch (tensor.dtype()) {
    case DType::f16:
      return double(f16_to_float(tensor.data<uint16_t>()[index]));
    case DType::bf16:
      return double(bf16_to_float(tensor.data<uint16_t>()[index]));
    default:
      return double(tensor.data<float>()[index]);
  }
}

// Largest |value| that a code stands for before the scale, zero points not yet subtracted.
double largest_code_value(const QuantizedTensor& weight) {
  const QuantScheme& scheme = weight.scheme;
  switch (scheme.kind) {
    case QuantScheme::Kind::integer:
      return double(scheme.code_count() - 1);
    case QuantScheme::Kind::floating:
      return scheme.float_type == DType::f8_e4m3 ? 448.0 : 57344.0;
    case QuantScheme::Kind::codebook:
      break;
  }
  double largest = 1.0;
  for (int64_t i = 0; weight.codebook.defined() && i < weight.codebook.numel(); ++i) {
    largest = std::max(largest, std::abs(double(weight.codebook.data<float>()[i])));
  }
  return largest;
}

}  // namespace

double sum_error(int64_t count) {
  const double terms = std::min(double(count), 8.0 * std::sqrt(double(count)));
  return (terms + 4.0) * kUnitRoundoff;  // + 4: the product, and roundings around the sum
}

double dot(int64_t k, double norm_x, double norm_w, double roundoff) {
  // (1 + roundoff)^2 - 1 for the factors
  return (sum_error(k) + (2.0 + roundoff) * roundoff) * norm_x * norm_w + kUnderflow;
}

double exponential(double distance) {
  return kFunction + 2.0 * kUnitRoundoff * distance;
}

double activation(Activation kind, double x) {
  const double magnitude = std::abs(x);
  switch (kind) {
    case Activation::identity:
    case Activation::relu:
      return 0.0;
    case Activation::silu:
    case Activation::quick_gelu: {
      // relative: 1 + exp(-x) has no cancellation
      const double slope = kind == Activation::silu ? 1.0 : 1.702;
      const double value = magnitude / (1.0 + std::exp(-slope * x));
      return value * (kFunction + exponential(2.0 * magnitude)) + kUnderflow;
    }
    case Activation::gelu:
    case Activation::gelu_tanh:
      // absolute: 1 + erf and 1 + tanh cancel for negative x
      return 2.0 * kFunction * magnitude + kUnderflow;
  }
  return 0.0;
}

double softcap(double cap) {
  return kFunction * cap;
}

double rms_norm(int64_t channels, double out) {
  return std::abs(out) * (0.5 * sum_error(channels) + kFunction) + kUnderflow;
}

double layer_norm(int64_t channels, double normal, double largest, double deviation, double gain,
                  double bias) {
  const double mean_error = sum_error(channels) * largest / deviation;
  const double scale_error = std::abs(normal) * (sum_error(channels) + kFunction);
  return std::abs(gain) * (mean_error + scale_error) + kFunction * std::abs(bias) + kUnderflow;
}

double softmax(int64_t columns, double probability, double distance, double score_error) {
  // each exponential, the denominator (whose terms have a mean distance of at most log columns), the quotient
  const double relative = exponential(distance) + exponential(std::log(double(columns))) +
                          sum_error(columns) + 2.0 * std::expm1(std::min(score_error, 1.0));
  return probability * relative + kUnderflow;
}

double log_sum_exp(int64_t columns) {
  return exponential(std::log(double(columns)));
}

double attention_gradient(int64_t head_dim, int64_t keys, double largest, double terms, double roundoff,
                          double score_error) {
  // Of a gradient's terms: the probability is off by twice the error of scores (its own and the
  // normalisation's), both factors are rounded. Of the difference dp - sum(dout out), both sides up to |dout|
  // |v|: 2 roundings in dp, 2 and the probabilities' error in out, and once more those of the product with p
  // and k.
  const double probability = 2.0 * std::expm1(std::min(score_error, 1.0));
  const double relative = sum_error(head_dim) + sum_error(keys) + kFunction + probability + 2.0 * roundoff;
  return relative * largest + (4.0 * kUnitRoundoff + 3.0 * probability + 8.0 * roundoff) * terms + kUnderflow;
}

double rounded_mean(double roundoff) {
  return (2.0 + roundoff) * roundoff;
}

double embedding(double magnitude) {
  return 2.0 * kUnitRoundoff * magnitude + kUnderflow;
}

double quantized_row_norm(const QuantizedTensor& weight, int64_t row) {
  const QuantScheme& scheme = weight.scheme;
  const int64_t in = weight.in(), groups = scheme.groups(in), width = scheme.group_width(in);
  const double largest = largest_code_value(weight);
  double squares = 0.0;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t index = scheme.granularity == QuantScheme::Granularity::tensor ? 0 : row * groups + g;
    double magnitude = load(weight.scales, index) * largest;
    if (weight.minimums.defined()) magnitude += std::abs(load(weight.minimums, index));
    // with a group index a group may hold any columns: count each as full, which only widens the bound
    const double columns = double(weight.group_index.defined() ? width : std::min(width, in - g * width));
    squares += columns * magnitude * magnitude;
  }
  return std::sqrt(squares);
}

}  // namespace pare::tolerance
