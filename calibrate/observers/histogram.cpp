// Counts of |x| in equal bins, per sign. Integers, so the order in which threads add theirs does not matter.
#include <algorithm>
#include <array>
#include <cmath>
#include <mutex>

#include "calibrate/observers/observers.h"
#include "engine/core/parallel.h"

namespace pare::observers {

void add_histogram(Histogram& histogram, const Tensor& x) {
  constexpr int64_t kRowsAtOnce = 64;
  constexpr double kBins = Histogram::kBins;
  const double limit = histogram.limit;
  std::mutex mutex;
  parallel_ranges(x.size(0), kRowsAtOnce, [&](int64_t begin, int64_t end) {
    std::array<uint64_t, 2 * Histogram::kBins> counts{};  // positive, then negative
    for (int64_t t = begin; t < end; ++t) {
      const float* row = x.data<float>() + t * x.row_stride();
      for (int64_t c = 0; c < x.size(1); ++c) {
        const double magnitude = std::fabs(double(row[c]));
        // With limit 0 every value is zero, or beyond the limit.
        const double place = limit > 0.0 ? magnitude * kBins / limit : magnitude > 0.0 ? kBins : 0.0;
        const int bin = place >= kBins - 1.0 ? Histogram::kBins - 1 : int(place);
        ++counts[size_t(row[c] < 0.0f ? Histogram::kBins + bin : bin)];
      }
    }
    const std::lock_guard lock(mutex);
    for (size_t i = 0; i < size_t(Histogram::kBins); ++i) {
      histogram.positive[i] += counts[i];
      histogram.negative[i] += counts[size_t(Histogram::kBins) + i];
    }
  });
}

}  // namespace pare::observers
