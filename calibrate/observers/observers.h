// calibrate/observers/observers.h: the parts of observe(); x is checked and finite. Internal to calibrate.
#pragma once

#include "calibrate/statistics.h"

namespace pare::observers {

// absmean, absmax, square and mean, as far as wanted: per channel, tokens in their order.
void add_channel_sums(SiteStatistics& statistics, StatisticSet wanted, const Tensor& x);

// sample_absmean: per channel and sample the mean of |x|, squared.
void add_sample_means(SiteStatistics& statistics, const Tensor& x, int64_t tokens_per_sample);

// low, high, and their moving average over the samples of x.
void add_range(SiteStatistics& statistics, const Tensor& x, int64_t tokens_per_sample);

// The smallest and largest value of the next sample.
void add_sample_range(SiteStatistics& statistics, float low, float high);

// Counts every value of x.
void add_histogram(Histogram& histogram, const Tensor& x);

}  // namespace pare::observers
