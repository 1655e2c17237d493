#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "engine/core/assert.h"
#include "quantize/grid.h"
#include "quantize/grid_error.h"

namespace pare {
namespace {

// log2 and exp2 as short polynomials on the bits, so that the loop below vectorises. Relative error below
// 2e-6: enough for an objective that only ranks ranges, and the same on every machine.
inline float fast_log2(float x) {
  const int32_t bits = std::bit_cast<int32_t>(x);
  const float exponent = float((bits >> 23) - 127);
  const float m = std::bit_cast<float>((bits & 0x007fffff) | 0x3f800000) - 1.0f;  // [0, 1)
  const float u = m / (m + 2.0f), v = u * u;  // log2(1 + m) = 2/ln2 atanh(m / (m + 2))
  return exponent +
         2.88539008f * u * (1.0f + v * (0.333333333f + v * (0.2f + v * (0.142857143f + v * 0.111111f))));
}

inline float fast_exp2(float x) {
  const float whole = (x + 12582912.0f) - 12582912.0f;  // to the nearest integer, |x| < 2^22
  const float f = (x - whole) * 0.693147181f;
  const float p =
      1.0f + f * (1.0f + f * (0.5f + f * (0.166666667f + f * (0.0416666667f + f * 0.00833333333f))));
  return p * std::bit_cast<float>((int32_t(whole) + 127) << 23);
}

// sum u |restored - value|^power
double sum_of_powers(std::span<const float> values, std::span<const float> restored,
                     std::span<const float> importance, double power) {
  const size_t count = values.size();
  if (power == 2.0) {
    double sum = 0.0;
    for (size_t i = 0; i < count; ++i) {
      const double difference = double(restored[i]) - double(values[i]);
      sum += (importance.empty() ? 1.0 : double(importance[i])) * difference * difference;
    }
    return sum;
  }
  std::array<float, 256> powers;
  PARE_ASSERT(count <= powers.size(), "[grid] {} values at once", count);
  const float exponent = float(power);
  for (size_t i = 0; i < count; ++i) {
    const float x = std::max(std::abs(restored[i] - values[i]), 1e-30f);
    powers[i] = fast_exp2(std::max(exponent * fast_log2(x), -126.0f));
  }
  double sum = 0.0;
  for (size_t i = 0; i < count; ++i)
    sum += (importance.empty() ? 1.0 : double(importance[i])) * double(powers[i]);
  return sum;
}

// The search for any scheme and power, through codes.
FittedGrid search_by_codes(const QuantScheme& scheme, std::span<const float> group, const ClipSearch& search,
                           std::span<const float> importance, float low, float high) {
  FittedGrid best = fit_range(scheme, low, high);
  std::array<uint8_t, 256> codes;
  std::array<float, 256> restored;
  double best_error = std::numeric_limits<double>::infinity();
  for (int step = 0; step < search.steps; ++step) {
    const float factor = float(1.0 - double(step) / search.grid);
    const FittedGrid candidate = fit_range(scheme, factor * low, factor * high);
    double error = 0.0;
    for (size_t begin = 0; begin < group.size() && error < best_error; begin += codes.size()) {
      const auto part = group.subspan(begin, std::min(codes.size(), group.size() - begin));
      encode(scheme, candidate.grid, part, codes.data());
      decode(scheme, candidate.grid, std::span(codes.data(), part.size()), restored.data());
      error += sum_of_powers(part, std::span(restored.data(), part.size()),
                             importance.empty() ? importance : importance.subspan(begin, part.size()),
                             search.power);
    }
    if (error < best_error) {
      best_error = error;
      best = candidate;
    }
  }
  return best;
}

// The same for integer codes and the squared error, without making codes: 20 times faster.
FittedGrid search_squares(const QuantScheme& scheme, std::span<const float> group, const ClipSearch& search,
                          std::span<const float> importance, float low, float high) {
  const PaddedGroup padded(group, importance);
  FittedGrid best = fit_range(scheme, low, high);
  double best_error = std::numeric_limits<double>::infinity();
  for (int step = 0; step < search.steps; ++step) {
    const float factor = float(1.0 - double(step) / search.grid);
    const FittedGrid candidate = fit_range(scheme, factor * low, factor * high);
    const double error = squared_error(scheme, candidate.grid, padded);
    if (error < best_error) {
      best_error = error;
      best = candidate;
    }
  }
  return best;
}

}  // namespace

FittedGrid fit_clipped(const QuantScheme& scheme, std::span<const float> group, const ClipSearch& search,
                       std::span<const float> importance) {
  PARE_ASSERT(!group.empty() && (importance.empty() || importance.size() == group.size()),
              "[grid] {} weights, {} importances", group.size(), importance.size());
  const auto range = std::minmax_element(group.begin(), group.end());
  const bool is_square = scheme.kind == QuantScheme::Kind::integer && search.power == 2.0;
  return (is_square ? search_squares : search_by_codes)(scheme, group, search, importance, *range.first,
                                                        *range.second);
}

}  // namespace pare
