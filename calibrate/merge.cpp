#include "calibrate/merge.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "calibrate/observer.h"
#include "engine/core/assert.h"
#include "engine/core/parallel.h"

namespace pare {
namespace {

Error merge_error(const std::string& path, std::string where, std::string what, std::string got,
                  std::string expected) {
  return Error{.exit = Exit::malformed,
               .rule = "IM07",
               .path = path,
               .where = std::move(where),
               .what = std::move(what),
               .got = std::move(got),
               .limit = std::move(expected),
               .limit_label = "expected"};
}

std::string names_of(StatisticSet set) {
  std::string names;
  for (const Statistic statistic : kAllStatistics) {
    if (!set.has(statistic)) continue;
    if (!names.empty()) names += ",";
    names += statistic_name(statistic);
  }
  return names;
}

Error other_origin(const std::string& path, const char* where, const std::string& got,
                   const std::string& expected) {
  return Error{.exit = Exit::locked,
               .rule = "IM05",
               .path = path,
               .where = where,
               .what = "statistics of another model or data",
               .got = got,
               .limit = expected,
               .limit_label = "expected"};
}

template <typename T>
void add(std::vector<T>& into, const std::vector<T>& part) {
  PARE_ASSERT(into.size() == part.size(), "[merge] {} and {} values", into.size(), part.size());
  for (size_t i = 0; i < into.size(); ++i) into[i] += part[i];
}

void add_moment(Tensor& into, const Tensor& part) {
  PARE_ASSERT(into.shape() == part.shape(), "[merge] {} and {}", into.shape().text(), part.shape().text());
  float* sum = into.mutable_data<float>();
  const float* other = part.data<float>();
  parallel_ranges(into.numel(), 65'536, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) sum[i] += other[i];
  });
}

// With shares c and first sample s of the part, m(part) = (1-c)^(n-1) s + c (...), while going on from
// `before` gives (1-c)^n before + c (1-c)^(n-1) s + c (...); the difference is (1-c)^n (before - s).
double continued_average(double before, double part, double first, int64_t samples) {
  return part + std::pow(1.0 - kMovingAverageShare, double(samples)) * (before - first);
}

void merge_range(SiteStatistics& into, const SiteStatistics& part) {
  into.moving_low = continued_average(into.moving_low, part.moving_low, double(part.first_low), part.samples);
  into.moving_high =
      continued_average(into.moving_high, part.moving_high, double(part.first_high), part.samples);
  into.low = std::min(into.low, part.low);
  into.high = std::max(into.high, part.high);
}

}  // namespace

Status check_origin(const StatisticsOrigin& found, const StatisticsOrigin& expected,
                    const std::string& path) {
  if (found.model_hash != expected.model_hash) {
    return other_origin(path, "model_hash", found.model_hash, expected.model_hash);
  }
  if (!expected.token_hash.empty() && found.token_hash != expected.token_hash) {
    return other_origin(path, "token_hash", found.token_hash, expected.token_hash);
  }
  return {};
}

Result<MergePlan> plan_merge(std::span<const StatisticsPart> parts) {
  PARE_ASSERT(!parts.empty(), "[merge] {} parts", parts.size());
  MergePlan plan;
  plan.order.resize(parts.size());
  std::iota(plan.order.begin(), plan.order.end(), size_t(0));
  std::sort(plan.order.begin(), plan.order.end(), [&](size_t a, size_t b) {
    const WindowRange &x = parts[a].header.windows, &y = parts[b].header.windows;
    return x.begin != y.begin ? x.begin < y.begin : x.end != y.end ? x.end < y.end : a < b;
  });
  const StatisticsPart& first = parts[plan.order[0]];
  plan.header = first.header;
  for (size_t i = 1; i < parts.size(); ++i) {
    const StatisticsPart& part = parts[plan.order[i]];
    const StatisticsHeader& header = part.header;
    PARE_CHECK(check_origin(header.origin, first.header.origin, part.path));
    if (header.origin != first.header.origin) {
      const StatisticsOrigin &a = header.origin, &b = first.header.origin;
      return other_origin(part.path, "seed, samples, context, text",
                          fmt::format("{}, {}, {}, {}", a.seed, a.samples, a.context, a.text_hash),
                          fmt::format("{}, {}, {}, {}", b.seed, b.samples, b.context, b.text_hash));
    }
    if (header.collected != first.header.collected) {
      return merge_error(part.path, "collected", "parts do not collect the same", names_of(header.collected),
                         names_of(first.header.collected));
    }
    if (header.sites != first.header.sites) {
      return merge_error(part.path, "sites", "parts do not have the same sites",
                         fmt::format("{} sites", header.sites.size()),
                         fmt::format("the {} sites of {}", first.header.sites.size(), first.path));
    }
    if (header.windows.begin != plan.header.windows.end) {
      return merge_error(part.path, "windows",
                         header.windows.begin < plan.header.windows.end ? "parts overlap"
                                                                        : "a part between these is missing",
                         fmt::format("begin {}", header.windows.begin),
                         fmt::format("{}", plan.header.windows.end));
    }
    plan.header.windows.end = header.windows.end;
  }
  return plan;
}

Status merge_site(SiteStatistics& into, const SiteStatistics& part) {
  PARE_ASSERT(into.channels == part.channels, "[merge] {} and {} channels", into.channels, part.channels);
  if (into.histogram) {
    PARE_ASSERT(part.histogram.has_value(), "[merge] histogram was not {}", "collected");
    if (into.histogram->limit != part.histogram->limit) {
      return merge_error({}, "histogram_limit",
                         "histograms over different ranges; collect range first, merge it, and give it to "
                         "every part with --limits",
                         fmt::format("{}", part.histogram->limit), fmt::format("{}", into.histogram->limit));
    }
    add(into.histogram->positive, part.histogram->positive);
    add(into.histogram->negative, part.histogram->negative);
  }
  if (part.tokens > 0 && into.has_range) {
    if (into.tokens == 0) {
      into.low = part.low, into.high = part.high;
      into.moving_low = part.moving_low, into.moving_high = part.moving_high;
      into.first_low = part.first_low, into.first_high = part.first_high;
    } else {
      merge_range(into, part);
    }
  }
  add(into.abs_sum, part.abs_sum);
  add(into.square_sum, part.square_sum);
  add(into.sum, part.sum);
  add(into.sample_square_sum, part.sample_square_sum);
  for (size_t i = 0; i < into.abs_max.size(); ++i)
    into.abs_max[i] = std::max(into.abs_max[i], part.abs_max[i]);
  if (into.second_moment.defined()) add_moment(into.second_moment, part.second_moment);
  into.tokens += part.tokens;
  into.samples += part.samples;
  return {};
}

StatisticsHeader header_of(const Statistics& statistics) {
  StatisticsHeader header{statistics.origin, statistics.windows, {}, {}};
  for (const auto& [key, site] : statistics.sites) {
    header.sites.push_back({key.first, key.second, site.channels});
    if (site.second_moment.defined()) header.collected.add(Statistic::second_moment);
    if (!site.abs_sum.empty()) header.collected.add(Statistic::absmean);
    if (!site.abs_max.empty()) header.collected.add(Statistic::absmax);
    if (!site.square_sum.empty()) header.collected.add(Statistic::square);
    if (site.has_range) header.collected.add(Statistic::range);
    if (site.histogram) header.collected.add(Statistic::histogram);
    if (!site.sum.empty()) header.collected.add(Statistic::mean);
    if (!site.sample_square_sum.empty()) header.collected.add(Statistic::sample_absmean);
  }
  return header;
}

Status merge(Statistics& into, const Statistics& part) {
  const StatisticsPart parts[] = {{"statistics", header_of(into)}, {"part", header_of(part)}};
  PARE_TRY(const MergePlan plan, plan_merge(parts));
  if (plan.order[0] != 0) {
    return merge_error("part", "windows", "comes before what it is added to",
                       fmt::format("begin {}", part.windows.begin), fmt::format("{}", into.windows.end));
  }
  for (auto& [key, site] : into.sites) {
    const std::pair<int, Site> site_key = key;
    auto status = merge_site(site, part.sites.at(site_key));
    if (!status) {
      status.error().path = "part";
      return status;
    }
  }
  into.windows = plan.header.windows;
  return {};
}

}  // namespace pare
