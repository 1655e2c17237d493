#include "calibrate/statistics_tensors.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/core/assert.h"
#include "engine/core/text.h"
#include "engine/tensor/tensor_scan.h"

namespace pare {
namespace {

constexpr int64_t kRangeValues = 6;

std::string prefix_of(const SiteEntry& entry) {
  return fmt::format("model.layers.{}.{}.", entry.block, site_name(entry.site));
}

Error value_error(Exit exit, const char* rule, const std::string& path, std::string where, std::string what,
                  std::string got, std::string limit, const char* label = "expected") {
  return Error{exit, rule, path, std::move(where), std::move(what), std::move(got), std::move(limit), label};
}

template <typename T>
Result<Tensor> tensor_of(DType dtype, const Shape& shape, const T* values) {
  PARE_TRY(Tensor tensor, Tensor::allocate(dtype, shape));
  std::memcpy(tensor.mutable_raw(), values, tensor.size_bytes());
  return tensor;
}

// Exit 7 with the index of the first value that is NaN, infinite or (when asked) negative.
template <typename T>
Status check_values(std::span<const T> values, bool may_be_negative, const std::string& name,
                    const std::string& path) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i]) && (may_be_negative || values[i] >= T(0))) continue;
    return value_error(Exit::numeric, "IM02", path, fmt::format("{}[{}]", quote(name), i),
                       std::isfinite(values[i]) ? "negative value" : "value is not finite",
                       fmt::format("{}", values[i]), "0", "limit");
  }
  return {};
}

template <typename T>
std::span<const T> values_of(const Tensor& tensor) {
  return {tensor.data<T>(), size_t(tensor.numel())};
}

Status check_moment(const Tensor& moment, const std::string& name, const std::string& path) {
  const int64_t channels = moment.size(0);
  const float* values = moment.data<float>();
  PARE_CHECK(check_values(values_of<float>(moment), true, name, path));
  for (int64_t i = 0; i < channels; ++i) {
    if (values[i * channels + i] < 0.0f) {
      return value_error(Exit::numeric, "IM02", path, fmt::format("{}[{},{}]", quote(name), i, i),
                         "negative value on the diagonal", fmt::format("{}", values[i * channels + i]), "0",
                         "limit");
    }
    for (int64_t j = 0; j < i; ++j) {
      if (values[i * channels + j] == values[j * channels + i]) continue;
      return value_error(Exit::numeric, "IM02", path, fmt::format("{}[{},{}]", quote(name), i, j),
                         "second moment is not symmetric", fmt::format("{}", values[i * channels + j]),
                         fmt::format("{}", values[j * channels + i]));
    }
  }
  return {};
}

Status parse_range(const Tensor& tensor, const std::string& name, const std::string& path,
                   SiteStatistics& statistics) {
  PARE_CHECK(check_values(values_of<double>(tensor), true, name, path));
  const double* v = tensor.data<double>();
  for (const int low : {0, 2, 4}) {
    constexpr double kLargest = double(std::numeric_limits<float>::max());
    if (v[low] < -kLargest || v[low + 1] > kLargest) {
      return value_error(Exit::malformed, "IM03", path, fmt::format("{}[{}]", quote(name), low),
                         "ends beyond what an activation can be", fmt::format("{}, {}", v[low], v[low + 1]),
                         fmt::format("{}", kLargest), "limit");
    }
    if (v[low] <= v[low + 1]) continue;
    return value_error(Exit::malformed, "IM03", path, fmt::format("{}[{}]", quote(name), low),
                       "low end above the high end", fmt::format("{}", v[low]),
                       fmt::format("{}", v[low + 1]));
  }
  statistics.has_range = true;
  statistics.low = float(v[0]), statistics.high = float(v[1]);
  statistics.moving_low = v[2], statistics.moving_high = v[3];
  statistics.first_low = float(v[4]), statistics.first_high = float(v[5]);
  return {};
}

Status parse_histogram(const Tensor& counts, const Tensor& limit, const std::string& name,
                       const std::string& path, SiteStatistics& statistics) {
  PARE_CHECK(check_values(values_of<double>(limit), false, name + "_limit", path));
  Histogram histogram;
  histogram.limit = limit.data<double>()[0];
  const uint64_t* values = counts.data<uint64_t>();
  histogram.positive.assign(values, values + Histogram::kBins);
  histogram.negative.assign(values + Histogram::kBins, values + 2 * Histogram::kBins);
  // Sums of counts that wrap cannot come out right by accident more often than once in 2^64 files.
  uint64_t total = 0;
  for (const uint64_t count : values_of<uint64_t>(counts)) total += count;
  const uint64_t expected = uint64_t(statistics.tokens) * uint64_t(statistics.channels);
  if (total != expected) {
    return value_error(Exit::malformed, "IM03", path, quote(name),
                       "counts are not those of tokens * channels", fmt::format("{}", total),
                       fmt::format("{}", expected));
  }
  statistics.histogram = std::move(histogram);
  return {};
}

}  // namespace

std::vector<StatisticsTensorSpec> site_specs(const SiteEntry& entry, StatisticSet collected) {
  const std::string prefix = prefix_of(entry);
  const int64_t channels = entry.channels;
  std::vector<StatisticsTensorSpec> specs = {{prefix + "counts", DType::i64, {2}}};
  const auto add = [&](Statistic statistic, const char* name, DType dtype, const Shape& shape) {
    if (collected.has(statistic)) specs.push_back({prefix + name, dtype, shape});
  };
  add(Statistic::second_moment, "second_moment", DType::f32, {channels, channels});
  add(Statistic::absmean, "abs_sum", DType::f64, {channels});
  add(Statistic::absmax, "abs_max", DType::f32, {channels});
  add(Statistic::square, "square_sum", DType::f64, {channels});
  add(Statistic::range, "range", DType::f64, {kRangeValues});
  add(Statistic::histogram, "histogram", DType::u64, {2, Histogram::kBins});
  add(Statistic::histogram, "histogram_limit", DType::f64, {1});
  add(Statistic::mean, "sum", DType::f64, {channels});
  add(Statistic::sample_absmean, "sample_square_sum", DType::f64, {channels});
  return specs;
}

Result<std::vector<Tensor>> site_tensors(const SiteStatistics& statistics, StatisticSet collected) {
  std::vector<Tensor> tensors;
  const auto add = [&](DType dtype, const Shape& shape, const auto* values) -> Status {
    PARE_TRY(Tensor tensor, tensor_of(dtype, shape, values));
    tensors.push_back(std::move(tensor));
    return {};
  };
  const int64_t channels = statistics.channels;
  const std::array<int64_t, 2> counts = {statistics.tokens, statistics.samples};
  PARE_CHECK(add(DType::i64, {2}, counts.data()));
  if (collected.has(Statistic::second_moment)) {
    PARE_ASSERT(statistics.second_moment.defined(), "[statistics] second moment was not {}", "collected");
    tensors.push_back(statistics.second_moment);
  }
  const auto full = [&](const auto& values) {
    PARE_ASSERT(int64_t(values.size()) == channels, "[statistics] {} values of {} channels", values.size(),
                channels);
    return values.data();
  };
  if (collected.has(Statistic::absmean)) {
    PARE_CHECK(add(DType::f64, {channels}, full(statistics.abs_sum)));
  }
  if (collected.has(Statistic::absmax)) {
    PARE_CHECK(add(DType::f32, {channels}, full(statistics.abs_max)));
  }
  if (collected.has(Statistic::square)) {
    PARE_CHECK(add(DType::f64, {channels}, full(statistics.square_sum)));
  }
  if (collected.has(Statistic::range)) {
    const std::array<double, kRangeValues> range = {statistics.low,        statistics.high,
                                                    statistics.moving_low, statistics.moving_high,
                                                    statistics.first_low,  statistics.first_high};
    PARE_CHECK(add(DType::f64, {kRangeValues}, range.data()));
  }
  if (collected.has(Statistic::histogram)) {
    PARE_ASSERT(statistics.histogram.has_value(), "[statistics] histogram was not {}", "collected");
    std::vector<uint64_t> both = statistics.histogram->positive;
    both.insert(both.end(), statistics.histogram->negative.begin(), statistics.histogram->negative.end());
    PARE_CHECK(add(DType::u64, {2, Histogram::kBins}, both.data()));
    PARE_CHECK(add(DType::f64, {1}, &statistics.histogram->limit));
  }
  if (collected.has(Statistic::mean)) {
    PARE_CHECK(add(DType::f64, {channels}, full(statistics.sum)));
  }
  if (collected.has(Statistic::sample_absmean)) {
    PARE_CHECK(add(DType::f64, {channels}, full(statistics.sample_square_sum)));
  }
  return tensors;
}

Status check_statistics_tensors(const StatisticsHeader& header, std::span<const StatisticsTensorSpec> found,
                                const std::string& path) {
  std::vector<StatisticsTensorSpec> promised;
  for (const SiteEntry& entry : header.sites) {
    for (StatisticsTensorSpec& spec : site_specs(entry, header.collected))
      promised.push_back(std::move(spec));
  }
  const auto by_name = [](const StatisticsTensorSpec* a, const StatisticsTensorSpec* b) {
    return a->name < b->name;
  };
  std::vector<const StatisticsTensorSpec*> left, right;
  for (const StatisticsTensorSpec& spec : promised) left.push_back(&spec);
  for (const StatisticsTensorSpec& spec : found) right.push_back(&spec);
  std::sort(left.begin(), left.end(), by_name);
  std::sort(right.begin(), right.end(), by_name);
  for (size_t i = 0; i < std::max(left.size(), right.size()); ++i) {
    const bool missing = i >= right.size() || (i < left.size() && left[i]->name < right[i]->name);
    const bool extra = i >= left.size() || (!missing && right[i]->name < left[i]->name);
    if (missing || extra) {
      return value_error(Exit::malformed, "IM04", path, quote((missing ? left : right)[i]->name),
                         missing ? "tensor is missing" : "tensor is not one that the header lists",
                         fmt::format("{} tensors", right.size()), fmt::format("{}", left.size()));
    }
    if (left[i]->dtype != right[i]->dtype || left[i]->shape != right[i]->shape) {
      return value_error(Exit::malformed, "IM03", path, quote(left[i]->name), "wrong type or shape",
                         fmt::format("{} {}", dtype_name(right[i]->dtype), right[i]->shape.text()),
                         fmt::format("{} {}", dtype_name(left[i]->dtype), left[i]->shape.text()));
    }
  }
  return {};
}

Result<SiteStatistics> parse_site(const SiteEntry& entry, StatisticSet collected,
                                  std::span<const Tensor> tensors, const std::string& path) {
  const std::vector<StatisticsTensorSpec> specs = site_specs(entry, collected);
  PARE_ASSERT(specs.size() == tensors.size(), "[statistics] {} tensors, {} expected", tensors.size(),
              specs.size());
  size_t next = 0;
  SiteStatistics statistics;
  statistics.channels = entry.channels;
  const int64_t* counts = tensors[next].data<int64_t>();
  statistics.tokens = counts[0], statistics.samples = counts[1];
  if (counts[0] < 0 || counts[1] < 0) {
    return value_error(Exit::numeric, "IM02", path, quote(specs[next].name), "negative count",
                       fmt::format("{}, {}", counts[0], counts[1]), "0", "limit");
  }
  if (counts[0] > (int64_t(1) << 48) || counts[1] > counts[0]) {
    return value_error(Exit::malformed, "IM03", path, quote(specs[next].name),
                       "tokens and samples contradict", fmt::format("{}, {}", counts[0], counts[1]),
                       "at least one token per sample");
  }
  ++next;
  if (collected.has(Statistic::second_moment)) {
    PARE_CHECK(check_moment(tensors[next], specs[next].name, path));
    statistics.second_moment = tensors[next++];
  }
  // Per-channel sums and maxima: finite, and but for plain sums not negative.
  const auto take = [&]<typename T>(Statistic statistic, std::vector<T>& into,
                                    bool may_be_negative = false) -> Status {
    if (!collected.has(statistic)) return {};
    const std::span<const T> values = values_of<T>(tensors[next]);
    PARE_CHECK(check_values(values, may_be_negative, specs[next].name, path));
    into.assign(values.begin(), values.end());
    ++next;
    return {};
  };
  PARE_CHECK(take(Statistic::absmean, statistics.abs_sum));
  PARE_CHECK(take(Statistic::absmax, statistics.abs_max));
  PARE_CHECK(take(Statistic::square, statistics.square_sum));
  if (collected.has(Statistic::range)) {
    PARE_CHECK(parse_range(tensors[next], specs[next].name, path, statistics));
    ++next;
  }
  if (collected.has(Statistic::histogram)) {
    PARE_CHECK(parse_histogram(tensors[next], tensors[next + 1], specs[next].name, path, statistics));
    next += 2;
  }
  PARE_CHECK(take(Statistic::mean, statistics.sum, /*may_be_negative=*/true));
  PARE_CHECK(take(Statistic::sample_absmean, statistics.sample_square_sum));
  return statistics;
}

}  // namespace pare
