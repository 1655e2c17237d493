#include "engine/models/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

constexpr int64_t kFirstRows = 256;
constexpr int64_t kGrain = 64;  // positions per item

// 1 / base^(2k/d), each step rounded to float. The power itself is exact to the last bit of a float.
float power(double base, int64_t k, int64_t dim) {
  const float exponent = float(2 * k) / float(dim);
  return float(std::pow(double(float(base)), double(exponent)));
}

std::vector<float> plain(double base, int64_t dim) {
  std::vector<float> inverse(size_t(dim / 2));
  for (int64_t k = 0; k < dim / 2; ++k) inverse[size_t(k)] = 1.0f / power(base, k, dim);
  return inverse;
}

// Long wavelengths are stretched by `factor`, short ones kept, those between blended. Source: Llama 3.1 model
// card.
void scale_llama3(const RopeConfig& rope, std::vector<float>& inverse) {
  const double original = double(rope.original_max_positions);
  const float longest = float(original / rope.low_frequency_factor);
  const float shortest = float(original / rope.high_frequency_factor);
  for (float& frequency : inverse) {
    const float wavelength = float(2.0 * std::numbers::pi) / frequency;
    if (wavelength < shortest) continue;
    const float stretched = frequency / float(rope.factor);
    if (wavelength > longest) {
      frequency = stretched;
      continue;
    }
    const float blend = (float(original) / wavelength - float(rope.low_frequency_factor)) /
                        float(rope.high_frequency_factor - rope.low_frequency_factor);
    frequency = (1.0f - blend) * stretched + blend * frequency;
  }
}

// Source: Peng et al., "YaRN" (2023), as Hugging Face computes it.
std::vector<float> yarn(const RopeConfig& rope, int64_t dim) {
  const auto correction = [&](double rotations) {
    return double(dim) *
           std::log(double(rope.original_max_positions) / (rotations * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(rope.theta));
  };
  const double low = std::max(std::floor(correction(rope.beta_fast)), 0.0);
  double high = std::min(std::ceil(correction(rope.beta_slow)), double(dim - 1));
  if (low == high) high += 0.001;
  std::vector<float> inverse(size_t(dim / 2));
  for (int64_t k = 0; k < dim / 2; ++k) {
    const float ramp = std::clamp((float(k) - float(low)) / float(high - low), 0.0f, 1.0f);
    const float base = power(rope.theta, k, dim);
    const float kept = 1.0f - ramp;
    inverse[size_t(k)] = 1.0f / (float(rope.factor) * base) * (1.0f - kept) + 1.0f / base * kept;
  }
  return inverse;
}

float attention_factor(const RopeConfig& rope) {
  if (rope.attention_factor > 0.0) return float(rope.attention_factor);
  if (rope.kind == RopeConfig::Kind::yarn)
    return rope.factor <= 1.0 ? 1.0f : float(0.1 * std::log(rope.factor) + 1.0);
  if (rope.kind == RopeConfig::Kind::longrope && rope.factor > 1.0)
    return float(std::sqrt(1.0 + std::log(rope.factor) / std::log(double(rope.original_max_positions))));
  return 1.0f;
}

}  // namespace

RotaryFrequencies rotary_frequencies(const RopeConfig& rope, int64_t rotary_dim, int64_t max_positions,
                                     int64_t length) {
  RotaryFrequencies result;
  result.attention_factor = attention_factor(rope);
  switch (rope.kind) {
    case RopeConfig::Kind::none:
    case RopeConfig::Kind::standard:
      result.inverse = plain(rope.theta, rotary_dim);
      break;
    case RopeConfig::Kind::linear:
      result.inverse = plain(rope.theta, rotary_dim);
      for (float& frequency : result.inverse) frequency /= float(rope.factor);
      break;
    case RopeConfig::Kind::dynamic: {
      const double stretch =
          rope.factor * double(std::max(length, max_positions)) / double(max_positions) - (rope.factor - 1.0);
      const double exponent = double(rotary_dim) / double(rotary_dim - 2);
      result.inverse =
          plain(rotary_dim > 2 ? rope.theta * std::pow(stretch, exponent) : rope.theta, rotary_dim);
      break;
    }
    case RopeConfig::Kind::yarn:
      result.inverse = yarn(rope, rotary_dim);
      break;
    case RopeConfig::Kind::longrope: {
      const std::vector<double>& factors =
          length > rope.original_max_positions ? rope.long_factors : rope.short_factors;
      PARE_ASSERT(int64_t(factors.size()) == rotary_dim / 2, "[rope] {} factors for {}", factors.size(),
                  rotary_dim);
      result.inverse.resize(size_t(rotary_dim / 2));
      for (int64_t k = 0; k < rotary_dim / 2; ++k)
        result.inverse[size_t(k)] = 1.0f / (float(factors[size_t(k)]) * power(rope.theta, k, rotary_dim));
      break;
    }
    case RopeConfig::Kind::llama3:
      result.inverse = plain(rope.theta, rotary_dim);
      scale_llama3(rope, result.inverse);
      break;
  }
  return result;
}

RotaryTable::RotaryTable(const RopeConfig& rope, int64_t head_dim, int64_t max_positions, Device device)
    : rope_(rope),
      head_dim_(head_dim),
      rotary_dim_(int64_t(double(head_dim) * rope.partial_factor)),
      max_positions_(max_positions),
      device_(device) {}

int64_t RotaryTable::variant(int64_t length) const {
  if (rope_.kind == RopeConfig::Kind::longrope) return length > rope_.original_max_positions ? 1 : 0;
  if (rope_.kind == RopeConfig::Kind::dynamic) return std::max(length, max_positions_);
  return 0;
}

Status RotaryTable::reserve(int64_t length) {
  const int64_t wanted = variant(length);
  if (length <= rows_ && wanted == variant_) return {};
  int64_t rows = rows_;
  if (length > rows_) {
    // Grow in powers of two, but not beyond what the model can use unless asked.
    rows = std::max(length, std::min(std::max(2 * rows_, kFirstRows), std::max(max_positions_, length)));
    PARE_TRY(cosines_, Tensor::allocate(DType::f32, {rows, rotary_dim_ / 2}, device_));
    PARE_TRY(sines_, Tensor::allocate(DType::f32, {rows, rotary_dim_ / 2}, device_));
  }
  // Computed on the host; a GPU gets a copy.
  Tensor host_cosines = cosines_, host_sines = sines_;
  if (!device_.is_host()) {
    PARE_TRY(host_cosines, Tensor::allocate(DType::f32, {rows, rotary_dim_ / 2}));
    PARE_TRY(host_sines, Tensor::allocate(DType::f32, {rows, rotary_dim_ / 2}));
  }
  const RotaryFrequencies frequencies = rotary_frequencies(rope_, rotary_dim_, max_positions_, length);
  const int64_t half = rotary_dim_ / 2;
  float* cosines = host_cosines.mutable_data<float>();
  float* sines = host_sines.mutable_data<float>();
  parallel_ranges(rows, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      for (int64_t k = 0; k < half; ++k) {
        const float angle = float(p) * frequencies.inverse[size_t(k)];
        cosines[p * half + k] = float(std::cos(double(angle))) * frequencies.attention_factor;
        sines[p * half + k] = float(std::sin(double(angle))) * frequencies.attention_factor;
      }
    }
  });
  if (!device_.is_host()) {
    PARE_CHECK(copy_into(host_cosines, cosines_));
    PARE_CHECK(copy_into(host_sines, sines_));
  }
  rows_ = rows;
  variant_ = wanted;
  return {};
}

}  // namespace pare
