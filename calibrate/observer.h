// calibrate/observer.h: from activations at one site to SiteStatistics.
//
// A call sees x f32 [tokens, channels], whole samples one after the other. What is collected depends on the
// values and on the order of the samples alone: not on threads, and not on how many samples one call brings.
// `second_moment` is not collected here but by calibrate/second_moment.h.
#pragma once

#include "calibrate/statistics.h"

namespace pare {

// Weight of a new sample in the moving average of ranges; the first sample counts whole.
inline constexpr double kMovingAverageShare = 0.01;

// An empty record for a site of `channels`, with the vectors that `wanted` needs.
SiteStatistics start_site(StatisticSet wanted, int64_t channels);

// Adds x, samples of `tokens_per_sample` rows each (x holds a whole number of them), to everything in
// `wanted` that one pass gives: absmean, absmax, square, mean, sample_absmean and range. Also counts tokens
// and samples. `histogram` needs the largest magnitude first, so it makes this pass collect the range. Error:
// exit 7 (NU06) with `[row,channel]` of the first value that is not finite; nothing was added then. The
// caller names block, site and sample.
Status observe(SiteStatistics& statistics, StatisticSet wanted, const Tensor& x, int64_t tokens_per_sample);

// Second pass of histograms: the limit is the largest magnitude of the first pass (or of all parts, for work
// that is cut in parts), then the same samples come again. Values beyond the limit go to the last bin.
void start_histogram(SiteStatistics& statistics, double limit);
Status observe_histogram(SiteStatistics& statistics, const Tensor& x);

// The largest magnitude that was seen; needs `range`.
double largest_magnitude(const SiteStatistics& statistics);

}  // namespace pare
