// calibrate/device_observer.h: observe() for activations on a GPU: sums stay there until the last batch was
// seen. The numbers are those of the host, bit for bit: sums of a channel are in double and in the order of
// the tokens.
#pragma once

#include <vector>

#include "calibrate/observer.h"
#include "engine/core/result.h"
#include "engine/tensor/tensor.h"

namespace pare {

class DeviceObserver {
 public:
  // For at most `batches` calls of observe() with `samples` samples in all. Exit 6.
  static Result<DeviceObserver> create(Device device, StatisticSet wanted, int64_t channels, int64_t batches,
                                       int64_t samples);
  // Asks for the statistics of x f32 [tokens, channels], which holds whole samples. Does not wait.
  void observe(const Tensor& x, int64_t tokens_per_sample);
  // Adds what was seen to `statistics`, which start_site() has made. Error: exit 7 (NU06) with
  // `[row,channel]` of the first value that is not finite, and the batch in bad_batch().
  Status finish(SiteStatistics& statistics);
  int64_t bad_batch() const { return bad_batch_; }

 private:
  DeviceObserver() = default;
  StatisticSet wanted_;
  int64_t channels_ = 0, batches_ = 0, samples_ = 0, tokens_ = 0;  // seen so far
  int64_t bad_batch_ = 0;
  Tensor sums_;        // f64 [4, channels]: x, |x|, x^2, squares of samples' means
  Tensor abs_max_;     // f32 [channels]
  Tensor low_, high_;  // f32 [samples, channels]; undefined without a range
  Tensor first_bad_;   // i64 [batches]
};

// observe_histogram() on a GPU.
class DeviceHistogram {
 public:
  // start_histogram() has been called. Exit 6.
  static Result<DeviceHistogram> create(Device device, double limit);
  void observe(const Tensor& x);
  Status finish(Histogram& histogram);

 private:
  DeviceHistogram() = default;
  double limit_ = 0.0;
  Tensor counts_;  // u64 [2, Histogram::kBins]
};

}  // namespace pare
