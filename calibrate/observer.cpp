#include "calibrate/observer.h"

#include <fmt/core.h>

#include <algorithm>

#include "calibrate/observers/observers.h"
#include "engine/core/assert.h"
#include "engine/tensor/tensor_scan.h"

namespace pare {
namespace {

Status check_finite(const Tensor& x) {
  const NonFinite found = scan_non_finite(x);
  if (!found.any()) return {};
  return Error{
      .exit = Exit::numeric,
      .rule = "NU06",
      .path = {},
      .where = index_text(x.shape(), found.first_index),
      .what = found.nan_count > 0 ? "NaN in activations" : "infinity in activations",
      .got = fmt::format("{} NaN, {} infinite of {}", found.nan_count, found.infinity_count, x.numel()),
      .limit = "0"};
}

void check_batch(const SiteStatistics& statistics, const Tensor& x) {
  PARE_ASSERT(x.dtype() == DType::f32 && x.shape().rank() == 2 && x.size(1) == statistics.channels,
              "[observe] {} {} at a site of {} channels", dtype_name(x.dtype()), x.shape().text(),
              statistics.channels);
}

}  // namespace

SiteStatistics start_site(StatisticSet wanted, int64_t channels) {
  PARE_ASSERT(channels > 0, "[observe] {} channels", channels);
  SiteStatistics statistics;
  statistics.channels = channels;
  if (wanted.has(Statistic::absmean)) statistics.abs_sum.assign(size_t(channels), 0.0);
  if (wanted.has(Statistic::absmax)) statistics.abs_max.assign(size_t(channels), 0.0f);
  if (wanted.has(Statistic::square)) statistics.square_sum.assign(size_t(channels), 0.0);
  if (wanted.has(Statistic::mean)) statistics.sum.assign(size_t(channels), 0.0);
  if (wanted.has(Statistic::sample_absmean)) statistics.sample_square_sum.assign(size_t(channels), 0.0);
  return statistics;
}

Status observe(SiteStatistics& statistics, StatisticSet wanted, const Tensor& x, int64_t tokens_per_sample) {
  check_batch(statistics, x);
  PARE_ASSERT(tokens_per_sample > 0 && x.size(0) % tokens_per_sample == 0,
              "[observe] {} rows are not samples of {}", x.size(0), tokens_per_sample);
  PARE_CHECK(check_finite(x));
  observers::add_channel_sums(statistics, wanted, x);
  if (wanted.has(Statistic::sample_absmean)) observers::add_sample_means(statistics, x, tokens_per_sample);
  if (wanted.has(Statistic::range) || wanted.has(Statistic::histogram)) {
    observers::add_range(statistics, x, tokens_per_sample);
  }
  statistics.tokens += x.size(0);
  statistics.samples += x.size(0) / tokens_per_sample;
  return {};
}

void start_histogram(SiteStatistics& statistics, double limit) {
  PARE_ASSERT(limit >= 0.0, "[observe] histogram up to {}", limit);
  Histogram histogram;
  histogram.limit = limit;
  histogram.positive.assign(Histogram::kBins, 0);
  histogram.negative.assign(Histogram::kBins, 0);
  statistics.histogram = std::move(histogram);
}

Status observe_histogram(SiteStatistics& statistics, const Tensor& x) {
  check_batch(statistics, x);
  PARE_ASSERT(statistics.histogram.has_value(), "[observe] histogram was not {}", "started");
  PARE_CHECK(check_finite(x));
  observers::add_histogram(*statistics.histogram, x);
  return {};
}

double largest_magnitude(const SiteStatistics& statistics) {
  PARE_ASSERT(statistics.has_range, "[observe] range was not {}", "collected");
  return std::max(-double(statistics.low), double(statistics.high));
}

}  // namespace pare
