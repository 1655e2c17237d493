// calibrate/statistics.h: what was seen at the inputs of linears while a data set went through a model.
//
// A `SiteStatistics` belongs to one site of one block; linears that share an input share it. Sums are over
// tokens and are not divided, so that parts made from different windows add up.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/core/result.h"
#include "engine/models/architecture.h"
#include "engine/tensor/tensor.h"

namespace pare {

// One statistic that an observer can collect.
enum class Statistic : uint8_t {
  second_moment,   // sum of x x^T: [channels, channels]
  absmean,         // per channel
  absmax,          // per channel
  square,          // per channel, sum of x^2 (the diagonal of the second moment)
  range,           // smallest and largest value of the site, and their moving average over samples
  histogram,       // of |x|, negative and positive values apart; needs two passes
  mean,            // per channel, sum of x
  sample_absmean,  // per channel, sum over samples of (mean |x| of the sample)^2: Minitron's activation score
};
std::string_view statistic_name(Statistic statistic);
Result<Statistic> parse_statistic(std::string_view name);  // exit 2 with the list
inline constexpr Statistic kAllStatistics[] = {
    Statistic::second_moment, Statistic::absmean,   Statistic::absmax, Statistic::square,
    Statistic::range,         Statistic::histogram, Statistic::mean,   Statistic::sample_absmean};

// Set of statistics.
class StatisticSet {
 public:
  constexpr StatisticSet() = default;
  constexpr StatisticSet(std::initializer_list<Statistic> list) {
    for (const Statistic statistic : list) add(statistic);
  }
  constexpr void add(Statistic statistic) { bits_ |= 1u << unsigned(statistic); }
  constexpr bool has(Statistic statistic) const { return (bits_ >> unsigned(statistic) & 1u) != 0; }
  constexpr bool empty() const { return bits_ == 0; }
  bool operator==(const StatisticSet&) const = default;
  constexpr StatisticSet operator|(StatisticSet other) const {
    StatisticSet both;
    both.bits_ = bits_ | other.bits_;
    return both;
  }

 private:
  uint32_t bits_ = 0;
};

// Counts of |x| in equal bins over [0, limit]; bin = min(bins - 1, floor(|x| * bins / limit)).
struct Histogram {
  static constexpr int kBins = 2048;
  double limit = 0.0;              // largest |x| of the first pass; 0: all values were zero
  std::vector<uint64_t> positive;  // x >= 0
  std::vector<uint64_t> negative;  // x < 0
};

struct SiteStatistics {
  int64_t channels = 0;
  int64_t tokens = 0;
  int64_t samples = 0;          // windows; what the moving averages are over
  Tensor second_moment;         // f32 [channels, channels], exactly symmetric; undefined when not collected
  std::vector<double> abs_sum;  // [channels]; empty when not collected, as below
  std::vector<float> abs_max;   // [channels]
  std::vector<double> square_sum;              // [channels]
  std::vector<double> sum;                     // [channels] (mean)
  std::vector<double> sample_square_sum;       // [channels] (sample_absmean)
  float low = 0.0f, high = 0.0f;               // smallest and largest value (range)
  double moving_low = 0.0, moving_high = 0.0;  // over samples in their order
  float first_low = 0.0f, first_high = 0.0f;   // of the first sample; with these, moving averages merge
  bool has_range = false;
  std::optional<Histogram> histogram;
};

// Which model and which tokens statistics were made from; statistics of another one are refused (IM05).
struct StatisticsOrigin {
  std::string model_hash;  // XXH3-128 over the model's inputs as the manifest lists them
  std::string token_hash;  // SHA-256 of the token stream
  std::string text_hash;   // SHA-256 of the documents
  uint64_t seed = 0;
  int64_t samples = 0;  // windows that were drawn, in all parts together
  int64_t context = 0;  // tokens per window
  bool operator==(const StatisticsOrigin&) const = default;
};

// Windows [begin, end) of those drawn; parts made by several processes have neighbouring ranges.
struct WindowRange {
  int64_t begin = 0, end = 0;
  bool operator==(const WindowRange&) const = default;
};

// A site that statistics have.
struct SiteEntry {
  int block = 0;
  Site site = Site::none;
  int64_t channels = 0;
  bool operator==(const SiteEntry&) const = default;
};

// Everything about statistics but their numbers.
struct StatisticsHeader {
  StatisticsOrigin origin;
  WindowRange windows;
  StatisticSet collected;
  std::vector<SiteEntry> sites;  // in execution order
  bool is_complete() const { return windows.begin == 0 && windows.end == origin.samples; }
};

struct Statistics {
  StatisticsOrigin origin;
  WindowRange windows;                                   // that these are of
  std::map<std::pair<int, Site>, SiteStatistics> sites;  // (block, site), in execution order

  const SiteStatistics* find(int block, Site site) const {
    const auto entry = sites.find({block, site});
    return entry == sites.end() ? nullptr : &entry->second;
  }
};

}  // namespace pare
