#include "calibrate/device_observer.h"

#include <algorithm>
#include <limits>

#include "calibrate/device_sweep.h"
#include "calibrate/observers/observers.h"
#include "engine/core/text.h"
#include "engine/tensor/statistics_backend.h"
#include "engine/tensor/tensor_scan.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

template <typename T>
Result<Tensor> filled(DType dtype, const Shape& shape, T value, Device device) {
  PARE_TRY(const Tensor host, Tensor::allocate(dtype, shape));
  std::fill_n(host.mutable_data<T>(), host.numel(), value);
  return moved(host, device);
}

}  // namespace

Result<DeviceObserver> DeviceObserver::create(Device device, StatisticSet wanted, int64_t channels,
                                              int64_t batches, int64_t samples) {
  DeviceObserver observer;
  observer.wanted_ = wanted;
  observer.channels_ = channels;
  PARE_TRY(observer.sums_, Tensor::allocate(DType::f64, {4, channels}, device));
  PARE_TRY(observer.abs_max_, Tensor::allocate(DType::f32, {channels}, device));
  PARE_TRY(observer.first_bad_, filled(DType::i64, {batches}, std::numeric_limits<int64_t>::max(), device));
  if (wanted.has(Statistic::range) || wanted.has(Statistic::histogram)) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    PARE_TRY(observer.low_, filled(DType::f32, {samples, channels}, kInfinity, device));
    PARE_TRY(observer.high_, filled(DType::f32, {samples, channels}, -kInfinity, device));
  }
  return observer;
}

void DeviceObserver::observe(const Tensor& x, int64_t tokens_per_sample) {
  const int64_t tokens = x.size(0), samples = tokens / tokens_per_sample;
  PARE_ASSERT(x.size(1) == channels_ && tokens % tokens_per_sample == 0 && batches_ < first_bad_.size(0),
              "[device_observer] {} in batch {}", x.shape().text(), batches_);
  StatisticsBackend& statistics = *backend_for(x.device()).statistics();
  const auto row = [&](Statistic statistic, int64_t index) {
    return wanted_.has(statistic) ? sums_.mutable_data<double>() + index * channels_ : nullptr;
  };
  ColumnStatisticsArgs args{
      .x = x.data<float>(),
      .tokens = tokens,
      .channels = channels_,
      .x_stride = x.row_stride(),
      .sum = row(Statistic::mean, 0),
      .abs_sum = row(Statistic::absmean, 1),
      .square_sum = row(Statistic::square, 2),
      .sample_square_sum = row(Statistic::sample_absmean, 3),
      .abs_max = wanted_.has(Statistic::absmax) ? abs_max_.mutable_data<float>() : nullptr,
      .low = nullptr,
      .high = nullptr,
      .first_bad = first_bad_.mutable_data<int64_t>() + batches_,
      .tokens_per_sample = wanted_.has(Statistic::sample_absmean) ? tokens_per_sample : 0};
  statistics.column_statistics(args);
  if (low_.defined()) {
    // Ends of each sample, for their moving average.
    for (int64_t sample = 0; sample < samples; ++sample) {
      ColumnStatisticsArgs ends{};
      ends.x = args.x + sample * tokens_per_sample * args.x_stride;
      ends.tokens = tokens_per_sample;
      ends.channels = channels_;
      ends.x_stride = args.x_stride;
      ends.low = low_.mutable_data<float>() + (samples_ + sample) * channels_;
      ends.high = high_.mutable_data<float>() + (samples_ + sample) * channels_;
      statistics.column_statistics(ends);
    }
  }
  tokens_ += tokens;
  samples_ += samples;
  ++batches_;
}

Status DeviceObserver::finish(SiteStatistics& statistics) {
  PARE_TRY(const Tensor first_bad, moved(first_bad_, Device::cpu()));
  for (int64_t batch = 0; batch < batches_; ++batch) {
    const int64_t index = first_bad.data<int64_t>()[batch];
    if (index == std::numeric_limits<int64_t>::max()) continue;
    bad_batch_ = batch;
    return Error{.exit = Exit::numeric,
                 .rule = "NU06",
                 .path = {},
                 .where = index_text(Shape{index / channels_ + 1, channels_}, index),
                 .what = "activations that are not finite",
                 .got = {},
                 .limit = {}};
  }
  PARE_TRY(const Tensor sums, moved(sums_, Device::cpu()));
  const auto add = [&](std::vector<double>& to, int64_t index) {
    for (size_t c = 0; c < to.size(); ++c) to[c] += sums.data<double>()[index * channels_ + int64_t(c)];
  };
  add(statistics.sum, 0);
  add(statistics.abs_sum, 1);
  add(statistics.square_sum, 2);
  add(statistics.sample_square_sum, 3);
  if (!statistics.abs_max.empty()) {
    PARE_TRY(const Tensor abs_max, moved(abs_max_, Device::cpu()));
    for (size_t c = 0; c < statistics.abs_max.size(); ++c)
      statistics.abs_max[c] = std::max(statistics.abs_max[c], abs_max.data<float>()[c]);
  }
  if (low_.defined()) {
    PARE_TRY(const Tensor low, moved(low_, Device::cpu()));
    PARE_TRY(const Tensor high, moved(high_, Device::cpu()));
    for (int64_t sample = 0; sample < samples_; ++sample) {
      const float* lows = low.data<float>() + sample * channels_;
      const float* highs = high.data<float>() + sample * channels_;
      observers::add_sample_range(statistics, *std::min_element(lows, lows + channels_),
                                  *std::max_element(highs, highs + channels_));
    }
  }
  statistics.tokens += tokens_;
  statistics.samples += samples_;
  return {};
}

Result<DeviceHistogram> DeviceHistogram::create(Device device, double limit) {
  DeviceHistogram histogram;
  histogram.limit_ = limit;
  PARE_TRY(histogram.counts_, Tensor::allocate(DType::u64, {2, Histogram::kBins}, device));
  return histogram;
}

void DeviceHistogram::observe(const Tensor& x) {
  column_solver(x.device())
      ->count_magnitudes({.x = x.data<float>(),
                          .counts = counts_.mutable_data<uint64_t>(),
                          .rows = x.size(0),
                          .columns = x.size(1),
                          .stride = x.row_stride(),
                          .bins = Histogram::kBins,
                          .limit = limit_});
}

Status DeviceHistogram::finish(Histogram& histogram) {
  PARE_TRY(const Tensor counts, moved(counts_, Device::cpu()));
  for (size_t i = 0; i < size_t(Histogram::kBins); ++i) {
    histogram.positive[i] += counts.data<uint64_t>()[i];
    histogram.negative[i] += counts.data<uint64_t>()[size_t(Histogram::kBins) + i];
  }
  return {};
}

}  // namespace pare
