#include "calibrate/activation_range.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>

#include "calibrate/observer.h"
#include "engine/core/assert.h"
#include "engine/core/text.h"

namespace pare {
namespace {

constexpr std::array<std::pair<std::string_view, RangeObserver>, 5> kNames = {{
    {"minmax", RangeObserver::min_max},
    {"moving-average", RangeObserver::moving_average},
    {"percentile", RangeObserver::percentile},
    {"mse", RangeObserver::mse},
    {"entropy", RangeObserver::entropy},
}};

// Steps of the search for the least error: shares 1, 0.99 ... 0.21 of the whole range.
constexpr int kSearchSteps = 80, kSearchGrid = 100;

Error option_error(Exit exit, std::string what, std::string got, std::string limit) {
  return Error{.exit = exit,
               .rule = exit == Exit::usage ? "CL06" : "CL13",
               .path = "observer",
               .where = {},
               .what = std::move(what),
               .got = std::move(got),
               .limit = std::move(limit)};
}

Status check_options(const RangeOptions& options) {
  if (!(options.percentile > 0.0 && options.percentile <= 100.0)) {
    return option_error(Exit::usage, "percentile outside (0, 100]", format_double(options.percentile), "100");
  }
  if (options.bits < 2 || options.bits > 8) {
    return option_error(Exit::usage, "bits of activations outside 2 to 8", fmt::format("{}", options.bits),
                        "8");
  }
  if (options.observer == RangeObserver::entropy && !options.is_symmetric) {
    return option_error(Exit::unsupported, "entropy is defined for symmetric grids only", "asymmetric",
                        "symmetric");
  }
  return {};
}

// Error of rounding the centres of all bins to the grid, each as often as it was counted.
double rounding_error(const Histogram& histogram, const ActivationGrid& grid, double power) {
  const double width = histogram.limit / Histogram::kBins, scale = double(grid.scale);
  double sum = 0.0;
  const auto add = [&](uint64_t count, double centre) {
    if (count == 0) return;
    const double code = std::clamp(std::nearbyint(centre / scale) + grid.zero_point, double(grid.lowest),
                                   double(grid.highest));
    sum += double(count) * std::pow(std::fabs(scale * (code - grid.zero_point) - centre), power);
  };
  for (size_t i = 0; i < size_t(Histogram::kBins); ++i) {
    const double centre = (double(i) + 0.5) * width;
    add(histogram.positive[i], centre);
    add(histogram.negative[i], -centre);
  }
  return sum;
}

ActivationRange least_error_range(const Histogram& histogram, const ActivationRange& whole,
                                  const RangeOptions& options) {
  ActivationRange best = whole;
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kSearchSteps; ++i) {
    const double share = 1.0 - double(i) / kSearchGrid;
    const ActivationRange range{share * whole.low, share * whole.high, false};
    const double error = rounding_error(
        histogram, fit_activation_grid(range, options.bits, options.is_symmetric), options.power);
    if (error < least) least = error, best = range;  // strictly: the widest range wins ties
  }
  return best;
}

std::vector<uint64_t> both_signs(const Histogram& histogram) {
  std::vector<uint64_t> counts = histogram.positive;
  for (size_t i = 0; i < counts.size(); ++i) counts[i] += histogram.negative[i];
  return counts;
}

// Everything that was seen, widened to contain 0.
ActivationRange whole_range(const SiteStatistics& statistics, bool is_symmetric) {
  ActivationRange range{std::min(0.0, double(statistics.low)), std::max(0.0, double(statistics.high)), false};
  range.is_all_zero = range.low == 0.0 && range.high == 0.0;
  if (is_symmetric)
    range = {-largest_magnitude(statistics), largest_magnitude(statistics), range.is_all_zero};
  return range;
}

ActivationRange symmetric(double magnitude) {
  return {-magnitude, magnitude, magnitude == 0.0};
}

ActivationRange percentile_range(const SiteStatistics& statistics, const RangeOptions& options) {
  const Histogram& histogram = *statistics.histogram;
  if (options.is_symmetric) {
    return symmetric(percentile_edge(both_signs(histogram), histogram.limit, options.percentile));
  }
  // The edge of a bin may lie beyond what was seen on its side.
  const double low = percentile_edge(histogram.negative, histogram.limit, options.percentile);
  const double high = percentile_edge(histogram.positive, histogram.limit, options.percentile);
  const ActivationRange whole = whole_range(statistics, false);
  return {std::max(whole.low, -low), std::min(whole.high, high), false};
}

}  // namespace

std::string_view range_observer_name(RangeObserver observer) {
  return kNames[size_t(observer)].first;
}

Result<RangeObserver> parse_range_observer(std::string_view name) {
  std::string known;
  for (const auto& [text, observer] : kNames) {
    if (text == name) return observer;
    if (!known.empty()) known += ", ";
    known += text;
  }
  return Error{.exit = Exit::usage,
               .rule = "CL12",
               .path = "--observer",
               .where = {},
               .what = "unknown range observer",
               .got = quote(name),
               .limit = known,
               .limit_label = "expected"};
}

StatisticSet statistics_needed(RangeObserver observer) {
  switch (observer) {
    case RangeObserver::min_max:
    case RangeObserver::moving_average:
      return {Statistic::range};
    case RangeObserver::percentile:
    case RangeObserver::mse:
    case RangeObserver::entropy:
      break;
  }
  return {Statistic::range, Statistic::histogram};
}

Result<ActivationRange> activation_range(const SiteStatistics& statistics, const RangeOptions& options) {
  PARE_CHECK(check_options(options));
  if (statistics.tokens == 0) {
    return Error{.exit = Exit::numeric,
                 .rule = "NU10",
                 .path = {},
                 .where = {},
                 .what = "no token reached this site",
                 .got = "0",
                 .limit = "1",
                 .limit_label = "need"};
  }
  PARE_ASSERT(statistics.has_range, "[activation_range] range was not {}", "collected");
  const ActivationRange whole = whole_range(statistics, options.is_symmetric);
  if (whole.is_all_zero || options.observer == RangeObserver::min_max) return whole;
  if (options.observer == RangeObserver::moving_average) {
    const double low = statistics.moving_low, high = statistics.moving_high;
    if (options.is_symmetric) return symmetric(std::max(std::fabs(low), std::fabs(high)));
    return ActivationRange{std::min(0.0, low), std::max(0.0, high), low == 0.0 && high == 0.0};
  }
  PARE_ASSERT(statistics.histogram.has_value(), "[activation_range] histogram was not {}", "collected");
  switch (options.observer) {
    case RangeObserver::percentile:
      return percentile_range(statistics, options);
    case RangeObserver::mse:
      return least_error_range(*statistics.histogram, whole, options);
    case RangeObserver::entropy:
      return symmetric(entropy_edge(both_signs(*statistics.histogram), statistics.histogram->limit,
                                    {.bits = options.bits}));
    case RangeObserver::min_max:
    case RangeObserver::moving_average:
      break;
  }
  return whole;
}

ActivationGrid fit_activation_grid(const ActivationRange& range, int bits, bool is_symmetric) {
  ActivationGrid grid;
  const int top = is_symmetric ? (1 << (bits - 1)) - 1 : (1 << bits) - 1;
  grid.lowest = is_symmetric ? -top : 0;
  grid.highest = top;
  const double width = is_symmetric ? range.high : range.high - range.low;
  if (width > 0.0) {
    grid.scale = std::max(float(width / top), std::numeric_limits<float>::min());
  }
  if (!is_symmetric) {
    grid.zero_point = int(std::clamp(std::nearbyint(-range.low / double(grid.scale)), 0.0, double(top)));
  }
  return grid;
}

double percentile_edge(std::span<const uint64_t> counts, double limit, double percentile) {
  uint64_t total = 0, seen = 0;
  for (const uint64_t count : counts) total += count;
  if (total == 0) return 0.0;
  const double need = percentile / 100.0;
  for (size_t i = 0; i < counts.size(); ++i) {
    seen += counts[i];
    // The last bin that holds anything ends the search even when the share was rounded.
    if (seen == total || double(seen) / double(total) >= need) {
      return i + 1 == counts.size() ? limit : limit * double(i + 1) / double(counts.size());
    }
  }
  return limit;
}

double entropy_edge(std::span<const uint64_t> counts, double limit, const EntropyOptions& options) {
  const int64_t bins = int64_t(counts.size()), levels = int64_t(1) << (options.bits - 1);
  if (bins < options.start || bins < 2) return limit;
  std::vector<uint64_t> mass(counts.begin(), counts.end());
  mass[0] = mass[1];  // the spike at zero would decide alone
  uint64_t beyond = 0;
  for (const uint64_t count : mass) beyond += count;
  // Mass at or above each candidate, kept up to date as candidates grow.
  for (int64_t i = 0; i < options.start; ++i) beyond -= mass[size_t(i)];

  std::vector<double> rounded(size_t(bins), 0.0);
  double least = std::numeric_limits<double>::infinity();
  int64_t best = -1;
  for (int64_t edge = options.start; edge <= bins; edge += options.stride) {
    int64_t last = edge - 1;
    while (last >= 0 && mass[size_t(last)] == 0) --last;
    if (last >= 0) {
      double rounded_sum = 0.0, exact_sum = double(beyond);
      for (int64_t level = 0; level < levels; ++level) {
        // Bins j with floor(j * levels / edge) = level.
        const int64_t first = (level * edge + levels - 1) / levels;
        const int64_t end = std::min(edge, ((level + 1) * edge + levels - 1) / levels);
        uint64_t sum = 0;
        int64_t filled = 0;
        for (int64_t j = first; j < end; ++j) sum += mass[size_t(j)], filled += mass[size_t(j)] != 0 ? 1 : 0;
        const double share = filled > 0 ? double(sum) / double(filled) : 0.0;
        for (int64_t j = first; j < end; ++j) rounded[size_t(j)] = mass[size_t(j)] != 0 ? share : 0.0;
        rounded_sum += double(sum);
        exact_sum += double(sum);
      }
      double divergence = 0.0;
      for (int64_t j = 0; j <= last; ++j) {
        if (mass[size_t(j)] == 0) continue;
        const double exact = (double(mass[size_t(j)]) + (j == last ? double(beyond) : 0.0)) / exact_sum;
        divergence += exact * std::log(exact / (rounded[size_t(j)] / rounded_sum));
      }
      if (divergence <= least) least = divergence, best = edge;
    }
    for (int64_t i = edge; i < std::min(bins, edge + options.stride); ++i) beyond -= mass[size_t(i)];
  }
  return best < 0 ? limit : limit * double(best) / double(bins);
}

}  // namespace pare
