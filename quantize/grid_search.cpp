#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "engine/core/assert.h"
#include "quantize/fast_power.h"
#include "quantize/grid.h"
#include "quantize/grid_error.h"

namespace pare {
namespace {

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
