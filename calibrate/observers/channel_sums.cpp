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
  if (abs_sum == nullptr && abs_max == nullptr && square_sum == nullptr) return;
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
    }
  });
}

}  // namespace pare::observers
