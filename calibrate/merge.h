// calibrate/merge.h: statistics of disjoint windows put together.
//
// Counts, maxima, ranges and histograms of parts are those of one pass exactly. Sums in double differ from
// one pass by at most tokens * 2^-53 of their value, moving averages by 8 * samples * 2^-53 of the largest
// magnitude, second moments (f32) by parts * 2^-24 of sqrt(H_ii H_jj). Parts are always added in the order of
// their windows.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "calibrate/statistics.h"

namespace pare {

// A part by name, for messages.
struct StatisticsPart {
  std::string path;
  StatisticsHeader header;
};

// The order in which parts are to be merged, as indices, and the header of the result. Exit 8 (IM05) for
// parts of another model or data, naming both hashes; 3 (IM07) for parts that overlap, leave a gap or do not
// collect the same.
struct MergePlan {
  std::vector<size_t> order;
  StatisticsHeader header;
};
Result<MergePlan> plan_merge(std::span<const StatisticsPart> parts);

// Adds a site of the next part, second moments in place. Exit 3 (IM07) for histograms over different limits.
Status merge_site(SiteStatistics& into, const SiteStatistics& part);

// Both of the above, for statistics in memory: `part` follows `into`.
Status merge(Statistics& into, const Statistics& part);

// The header of statistics in memory.
StatisticsHeader header_of(const Statistics& statistics);

// Exit 8 (IM05) when statistics were made from another model, or (token_hash not empty) other tokens.
Status check_origin(const StatisticsOrigin& found, const StatisticsOrigin& expected, const std::string& path);

}  // namespace pare
