// Smallest and largest value of a site, over all tokens and as a moving average over samples.
#include <algorithm>
#include <limits>
#include <vector>

#include "calibrate/observer.h"
#include "calibrate/observers/observers.h"
#include "engine/core/parallel.h"

namespace pare::observers {
namespace {

struct Ends {
  float low = std::numeric_limits<float>::infinity();
  float high = -std::numeric_limits<float>::infinity();
};

Ends ends_of(const Tensor& x, int64_t first, int64_t last) {
  Ends ends;
  for (int64_t t = first; t < last; ++t) {
    const float* row = x.data<float>() + t * x.row_stride();
    for (int64_t c = 0; c < x.size(1); ++c) {
      ends.low = std::min(ends.low, row[c]);
      ends.high = std::max(ends.high, row[c]);
    }
  }
  return ends;
}

}  // namespace

void add_range(SiteStatistics& statistics, const Tensor& x, int64_t tokens_per_sample) {
  constexpr int64_t kRowsAtOnce = 64;
  const int64_t samples = x.size(0) / tokens_per_sample;
  const int64_t pieces = (tokens_per_sample + kRowsAtOnce - 1) / kRowsAtOnce;
  std::vector<Ends> found(size_t(samples * pieces));
  parallel_for(samples * pieces, [&](int64_t item) {
    const int64_t begin = item / pieces * tokens_per_sample, first = begin + item % pieces * kRowsAtOnce;
    found[size_t(item)] = ends_of(x, first, std::min(first + kRowsAtOnce, begin + tokens_per_sample));
  });
  for (int64_t sample = 0; sample < samples; ++sample) {
    Ends ends;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const Ends& other = found[size_t(sample * pieces + piece)];
      ends = {std::min(ends.low, other.low), std::max(ends.high, other.high)};
    }
    add_sample_range(statistics, ends.low, ends.high);
  }
}

void add_sample_range(SiteStatistics& statistics, float low, float high) {
  if (!statistics.has_range) {
    statistics.has_range = true;
    statistics.low = statistics.first_low = low;
    statistics.high = statistics.first_high = high;
    statistics.moving_low = double(low);
    statistics.moving_high = double(high);
    return;
  }
  statistics.low = std::min(statistics.low, low);
  statistics.high = std::max(statistics.high, high);
  const double keep = 1.0 - kMovingAverageShare;
  statistics.moving_low = keep * statistics.moving_low + kMovingAverageShare * double(low);
  statistics.moving_high = keep * statistics.moving_high + kMovingAverageShare * double(high);
}

}  // namespace pare::observers
