#include "calibrate/site_observer.h"

#include <utility>

#include "calibrate/pipeline_stream.h"
#include "calibrate/second_moment.h"

namespace pare {

Result<SiteObserver> SiteObserver::create(Device device, StatisticSet wanted, int64_t channels,
                                          int64_t samples, int64_t batches) {
  SiteObserver observer;
  observer.wanted_ = wanted;
  observer.statistics_ = start_site(wanted, channels);
  if (wanted.has(Statistic::second_moment)) {
    PARE_TRY(observer.statistics_.second_moment, Tensor::allocate(DType::f32, {channels, channels}, device));
  }
  if (!device.is_host()) {
    PARE_TRY(observer.device_, DeviceObserver::create(device, wanted, channels, batches, samples));
  }
  return observer;
}

Status SiteObserver::observe(const Tensor& x, int64_t tokens_per_sample, Workspace& workspace) {
  bad_batch_ = batch_++;
  if (device_) {
    device_->observe(x, tokens_per_sample);
  } else {
    PARE_CHECK(pare::observe(statistics_, wanted_, x, tokens_per_sample));
  }
  if (wanted_.has(Statistic::second_moment)) add_moment_of_rows(x, statistics_.second_moment, workspace);
  return {};
}

Status SiteObserver::finish(SiteStatistics& statistics) {
  if (device_) {
    const Status finished = device_->finish(statistics_);
    bad_batch_ = device_->bad_batch();
    PARE_CHECK(finished);
  }
  if (wanted_.has(Statistic::second_moment)) finish_second_moment(statistics_.second_moment);
  statistics = std::move(statistics_);
  return {};
}

Result<SiteHistogram> SiteHistogram::create(Device device, SiteStatistics& statistics) {
  SiteHistogram histogram;
  histogram.statistics_ = &statistics;
  if (!device.is_host()) {
    PARE_TRY(histogram.device_, DeviceHistogram::create(device, statistics.histogram->limit));
  }
  return histogram;
}

Status SiteHistogram::observe(const Tensor& x) {
  if (!device_) return observe_histogram(*statistics_, x);
  device_->observe(x);
  return {};
}

Status SiteHistogram::finish() {
  return device_ ? device_->finish(*statistics_->histogram) : Status();
}

}  // namespace pare
