// calibrate/observers/observers.h: the parts of observe(); x is checked and finite. Internal to calibrate.
#pragma once

#include "calibrate/statistics.h"

namespace pare::observers {

// absmean, absmax and square, as far as wanted: per channel, tokens in their order.
void add_channel_sums(SiteStatistics& statistics, StatisticSet wanted, const Tensor& x);

// low, high, and their moving average over the samples of x.
void add_range(SiteStatistics& statistics, const Tensor& x, int64_t tokens_per_sample);

// Counts every value of x.
void add_histogram(Histogram& histogram, const Tensor& x);

}  // namespace pare::observers
