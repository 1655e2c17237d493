// evaluate/histogram.h: counts of values for plots. Integer counts, so any order of adding gives the same
// result.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/tensor/tensor.h"

namespace pare {

// |x| in quarter octaves: bin i holds |x| in [edge(i), edge(i + 1)), edges 2^-12, 1.25 * 2^-12, 1.5 * 2^-12,
// 1.75 * 2^-12, 2^-11, ... 2^12. The same edges for every site and model, so that plots compare.
struct MagnitudeHistogram {
  static constexpr int kBins = 96, kLowestExponent = -12;
  std::vector<uint64_t> counts;   // [kBins]; empty when nothing was added
  uint64_t below = 0, above = 0;  // smaller than the first edge (zero included), at least the last edge
  uint64_t zeros = 0;             // part of `below`
  double largest = 0.0;           // max |x|
  double square_sum = 0.0;        // sum x^2, for the root mean square
  static double edge(int bin);    // bin in [0, kBins]
  uint64_t total() const;
  // x: f32, finite, any shape. Parallel; sums in index order.
  void add(const Tensor& x);
};

// x in equal bins over [-limit, limit]; what lies outside is counted at the ends.
struct ValueHistogram {
  static constexpr int kBins = 128;
  double limit = 0.0;            // > 0, or 0 when all values are zero
  std::vector<uint64_t> counts;  // [kBins]
  uint64_t outside = 0;          // beyond the limits; counted in the end bins too
  double largest = 0.0;          // max |x|
  uint64_t total() const;
};
// x: f32, finite. bin = clamp(floor((x + limit) * kBins / (2 limit)), 0, kBins - 1).
ValueHistogram value_histogram(const Tensor& x, double limit);
double largest_magnitude(const Tensor& x);

}  // namespace pare
