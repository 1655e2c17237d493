// calibrate/site_observer.h: everything that is collected at one site, wherever the activations lie.
#pragma once

#include <optional>

#include "calibrate/device_observer.h"
#include "calibrate/observer.h"
#include "engine/tensor/workspace.h"

namespace pare {

class SiteObserver {
 public:
  // For `samples` samples in `batches` batches. Exit 6.
  static Result<SiteObserver> create(Device device, StatisticSet wanted, int64_t channels, int64_t samples,
                                     int64_t batches);
  // As observe(), and the second moment; workspace: second_moment_workspace_bytes() for the batch. On a GPU
  // values that are not finite are told at the end.
  Status observe(const Tensor& x, int64_t tokens_per_sample, Workspace& workspace);
  // The second moment stays where it was made.
  Status finish(SiteStatistics& statistics);
  int64_t bad_batch() const { return bad_batch_; }  // after an error

 private:
  SiteObserver() = default;
  StatisticSet wanted_;
  SiteStatistics statistics_;
  std::optional<DeviceObserver> device_;
  int64_t batch_ = 0, bad_batch_ = 0;
};

// The second pass, after start_histogram(); the statistics must outlive it.
class SiteHistogram {
 public:
  static Result<SiteHistogram> create(Device device, SiteStatistics& statistics);
  Status observe(const Tensor& x);
  Status finish();

 private:
  SiteHistogram() = default;
  SiteStatistics* statistics_ = nullptr;
  std::optional<DeviceHistogram> device_;
};

}  // namespace pare
