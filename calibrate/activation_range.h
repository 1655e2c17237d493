// calibrate/activation_range.h: from what was seen at a site to one static grid for its activations.
// Source: Krishnamoorthi, "Quantizing deep convolutional networks" (2018); Migacz, "8-bit inference with
// TensorRT" (2017) for the entropy rule.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "calibrate/statistics.h"

namespace pare {

// How the range that is kept is chosen; values beyond it are clipped.
enum class RangeObserver : uint8_t {
  min_max,         // everything that was seen
  moving_average,  // averages of the ends of samples
  percentile,      // all but a small share of the values, per side when asymmetric
  mse,             // least error of the rounded histogram
  entropy,         // least divergence of the rounded from the exact histogram; symmetric only
};
std::string_view range_observer_name(RangeObserver observer);       // "minmax", "moving-average", ...
Result<RangeObserver> parse_range_observer(std::string_view name);  // exit 2 with the list
StatisticSet statistics_needed(RangeObserver observer);

struct RangeOptions {
  RangeObserver observer = RangeObserver::min_max;
  bool is_symmetric = true;   // codes -127 ... 127 around zero; else 0 ... 255 with a zero point
  double percentile = 99.99;  // (0, 100]
  int bits = 8;               // 2 to 8
  double power = 2.0;         // of mse: sum of |error|^power
};

// The kept range; contains 0. Symmetric: low = -high.
struct ActivationRange {
  double low = 0.0, high = 0.0;
  bool is_all_zero = false;  // nothing but zeros was seen: scale 1, to be reported
};

// Errors: 7 for a site that saw no token; 2 for options out of range; 4 for entropy with a zero point.
// Asserts that statistics_needed() were collected.
Result<ActivationRange> activation_range(const SiteStatistics& statistics, const RangeOptions& options);

// x is approximated by scale * (q - zero_point) with q in [lowest, highest].
struct ActivationGrid {
  float scale = 1.0f;
  int zero_point = 0;
  int lowest = -127, highest = 127;
};
// Symmetric: high / (2^(bits-1) - 1). Asymmetric: (high - low) / (2^bits - 1), zero point clamped to the
// codes. An empty range has scale 1; a scale below the smallest normal float is raised to it.
ActivationGrid fit_activation_grid(const ActivationRange& range, int bits, bool is_symmetric);

// --- the rules on bare counts ----------------------------------------------------------------------------

// Upper edge of the first bin at which `percentile` % of all counts are reached; 0 without counts. `counts`
// are of equal bins over [0, limit].
double percentile_edge(std::span<const uint64_t> counts, double limit, double percentile);

struct EntropyOptions {
  int bits = 8;
  int64_t start = 128;  // smallest candidate, in bins
  int64_t stride = 1;
};
// The candidate edge whose clipped and rounded distribution diverges least; ties to the largest; `limit` when
// there is no valid candidate. The mass beyond an edge goes to the last kept bin that is not empty.
double entropy_edge(std::span<const uint64_t> counts, double limit, const EntropyOptions& options);

}  // namespace pare
