// Sums per channel. A channel belongs to one thread and its tokens are added in order, in double, so neither
// threads nor the size of a batch can change the result.
#include <algorithm>
#include <cmath>

#include "calibrate/observers/observers.h"
#include "engine/core/parallel.h"

namespace pare::observers {
namespace {

constexpr int64_t kChannelsAtOnce = 256;  // one kilobyte of a row, and the sums stay in the first cache

}  // namespace

void add_channel_sums(SiteStatistics& statistics, StatisticSet wanted, const Tensor& x) {
  double* abs_sum = wanted.has(Statistic::absmean) ? statistics.abs_sum.data() : nullptr;
  float* abs_max = wanted.has(Statistic::absmax) ? statistics.abs_max.data() : nullptr;
  double* square_sum = wanted.has(Statistic::square) ? statistics.square_sum.data() : nullptr;
  double* sum = wanted.has(Statistic::mean) ? statistics.sum.data() : nullptr;
  if (abs_sum == nullptr && abs_max == nullptr && square_sum == nullptr && sum == nullptr) return;
  const float* values = x.data<float>();
  const int64_t tokens = x.size(0), stride = x.row_stride();
  parallel_ranges(statistics.channels, kChannelsAtOnce, [=](int64_t begin, int64_t end) {
    for (int64_t t = 0; t < tokens; ++t) {
      const float* row = values + t * stride;
      if (abs_sum != nullptr) {
        for (int64_t c = begin; c < end; ++c) abs_sum[c] += double(std::fabs(row[c]));
      }
      if (abs_max != nullptr) {
        for (int64_t c = begin; c < end; ++c) abs_max[c] = std::max(abs_max[c], std::fabs(row[c]));
      }
      if (square_sum != nullptr) {
        for (int64_t c = begin; c < end; ++c) square_sum[c] += double(row[c]) * double(row[c]);
      }
      if (sum != nullptr) {
        for (int64_t c = begin; c < end; ++c) sum[c] += double(row[c]);
      }
    }
  });
}

void add_sample_means(SiteStatistics& statistics, const Tensor& x, int64_t tokens_per_sample) {
  double* square_sum = statistics.sample_square_sum.data();
  const float* values = x.data<float>();
  const int64_t tokens = x.size(0), stride = x.row_stride();
  parallel_ranges(statistics.channels, kChannelsAtOnce, [=](int64_t begin, int64_t end) {
    double sums[kChannelsAtOnce];
    for (int64_t first = 0; first < tokens; first += tokens_per_sample) {
      std::fill(sums, sums + (end - begin), 0.0);
      for (int64_t t = first; t < first + tokens_per_sample; ++t) {
        const float* row = values + t * stride;
        for (int64_t c = begin; c < end; ++c) sums[c - begin] += double(std::fabs(row[c]));
      }
      for (int64_t c = begin; c < end; ++c) {
        const double mean = sums[c - begin] / double(tokens_per_sample);
        square_sum[c] += mean * mean;
      }
    }
  });
}

}  // namespace pare::observers
