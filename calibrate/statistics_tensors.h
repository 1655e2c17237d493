// calibrate/statistics_tensors.h: statistics as named tensors and texts, the form in which they are stored.
// Every value that is read back is checked. docs/methods.md describes the file.
//
// Tensors of a site, with the prefix "model.layers.3.mlp.act.":
//   counts i64 [2]            tokens, samples
//   second_moment f32 [C, C]  abs_sum f64 [C]   abs_max f32 [C]   square_sum f64 [C]
//   range f64 [6]             low, high, their moving averages, those of the first sample
//   histogram u64 [2, 2048]   x >= 0, x < 0;    histogram_limit f64 [1]
//   sum f64 [C]   sample_square_sum f64 [C]
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "calibrate/statistics.h"

namespace pare {

inline constexpr const char* kStatisticsMetadataKey = "pare_statistics";

struct StatisticsTensorSpec {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
};

// Text under kStatisticsMetadataKey, and back. Error (IM06): exit 3 malformed, 4 another version.
std::string statistics_header_text(const StatisticsHeader& header);
Result<StatisticsHeader> parse_statistics_header(std::string_view text, const std::string& path);

// What a site stores, in the order of site_tensors().
std::vector<StatisticsTensorSpec> site_specs(const SiteEntry& entry, StatisticSet collected);
// Exit 6. Asserts that `statistics` hold what `collected` says. The second moment is shared, not copied.
Result<std::vector<Tensor>> site_tensors(const SiteStatistics& statistics, StatisticSet collected);

// Exit 3 (IM04) when the tensors of a file are not those that its header promises, names and number; exit 3
// (IM03) for a shape or type.
Status check_statistics_tensors(const StatisticsHeader& header, std::span<const StatisticsTensorSpec> found,
                                const std::string& path);

// Tensors of one site, in the order of site_specs(), already of the right shapes. Exit 7 (IM02) for a value
// that is not finite, or negative where none may be; 3 (IM03) for counts that contradict each other.
Result<SiteStatistics> parse_site(const SiteEntry& entry, StatisticSet collected,
                                  std::span<const Tensor> tensors, const std::string& path);

}  // namespace pare
