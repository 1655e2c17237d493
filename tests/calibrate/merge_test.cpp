// Parts put together against one pass over everything.
#include "calibrate/merge.h"

#include <gtest/gtest.h>

#include <cmath>

#include "calibrate/observer.h"
#include "engine/core/random.h"

namespace pare::test {
namespace {

constexpr int64_t kChannels = 37, kContext = 50, kSamples = 12;
constexpr StatisticSet kWanted = {Statistic::absmean, Statistic::absmax,    Statistic::square,
                                  Statistic::range,   Statistic::histogram, Statistic::second_moment};

Tensor activations() {
  Tensor x = *Tensor::allocate(DType::f32, {kSamples * kContext, kChannels});
  const Random random(5, RandomPurpose::test_data);
  for (int64_t i = 0; i < x.numel(); ++i) {
    x.mutable_data<float>()[i] = random.normal(uint64_t(i)) * (1.0f + 0.1f * float(i % 7));
  }
  return x;
}

// What a process that owns windows [begin, end) hands in.
Statistics part_of(const Tensor& x, int64_t begin, int64_t end, double limit) {
  Statistics statistics;
  statistics.origin = {"model", "tokens", "text", 3, kSamples, kContext};
  statistics.windows = {begin, end};
  SiteStatistics site = start_site(kWanted, kChannels);
  const Tensor rows = x.rows(begin * kContext, end * kContext);
  EXPECT_TRUE(observe(site, kWanted, rows, kContext));
  start_histogram(site, limit);
  EXPECT_TRUE(observe_histogram(site, rows));
  site.second_moment = *Tensor::allocate(DType::f32, {kChannels, kChannels});
  for (int64_t i = 0; i < kChannels; ++i) {
    for (int64_t j = 0; j < kChannels; ++j) {
      double sum = 0.0;
      for (int64_t t = 0; t < rows.size(0); ++t) {
        sum += double(rows.data<float>()[t * kChannels + i]) * rows.data<float>()[t * kChannels + j];
      }
      site.second_moment.mutable_data<float>()[i * kChannels + j] = float(sum);
    }
  }
  statistics.sites.emplace(std::pair(2, Site::mlp_in), std::move(site));
  return statistics;
}

TEST(Merge, PartsAreOnePass) {
  const Tensor x = activations();
  const double limit = largest_magnitude(part_of(x, 0, kSamples, 1.0).sites.begin()->second);
  const Statistics whole = part_of(x, 0, kSamples, limit);
  Statistics sum = part_of(x, 0, 5, limit);
  ASSERT_TRUE(merge(sum, part_of(x, 5, 6, limit)));
  EXPECT_FALSE(header_of(sum).is_complete());
  ASSERT_TRUE(merge(sum, part_of(x, 6, kSamples, limit)));
  EXPECT_TRUE(header_of(sum).is_complete());
  EXPECT_EQ(sum.windows, whole.windows);

  const SiteStatistics &a = *sum.find(2, Site::mlp_in), &b = *whole.find(2, Site::mlp_in);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.samples, b.samples);
  EXPECT_EQ(a.abs_max, b.abs_max);
  EXPECT_EQ(a.low, b.low);
  EXPECT_EQ(a.high, b.high);
  EXPECT_EQ(a.histogram->positive, b.histogram->positive);
  EXPECT_EQ(a.histogram->negative, b.histogram->negative);
  // The bounds that merge.h states.
  const double u = std::ldexp(1.0, -53), tokens = double(b.tokens);
  for (int64_t c = 0; c < kChannels; ++c) {
    EXPECT_NEAR(a.abs_sum[c], b.abs_sum[c], tokens * u * b.abs_sum[c]);
    EXPECT_NEAR(a.square_sum[c], b.square_sum[c], tokens * u * b.square_sum[c]);
  }
  const double average_bound = 8.0 * double(kSamples) * u * largest_magnitude(b);
  EXPECT_NEAR(a.moving_low, b.moving_low, average_bound);
  EXPECT_NEAR(a.moving_high, b.moving_high, average_bound);
  const float *h = a.second_moment.data<float>(), *g = b.second_moment.data<float>();
  for (int64_t i = 0; i < kChannels; ++i) {
    for (int64_t j = 0; j < kChannels; ++j) {
      const double scale = std::sqrt(double(g[i * kChannels + i]) * g[j * kChannels + j]);
      EXPECT_NEAR(h[i * kChannels + j], g[i * kChannels + j], 3.0 * std::ldexp(scale, -24));
    }
  }
}

TEST(Merge, PlansInTheOrderOfWindows) {
  const Tensor x = activations();
  std::vector<StatisticsPart> parts;
  for (const auto& [begin, end] : {std::pair{8, 12}, {0, 3}, {3, 8}}) {
    parts.push_back({"part", header_of(part_of(x, begin, end, 1.0))});
  }
  const auto plan = plan_merge(parts);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->order, (std::vector<size_t>{1, 2, 0}));
  EXPECT_TRUE(plan->header.is_complete());
}

TEST(Merge, RefusesPartsThatDoNotBelongTogether) {
  const Tensor x = activations();
  const Statistics first = part_of(x, 0, 4, 1.0);
  const auto merging = [&](auto change) {
    Statistics into = first, part = part_of(x, 4, 8, 1.0);
    change(part);
    return merge(into, part);
  };
  EXPECT_TRUE(merging([](Statistics&) {}));
  const Status model = merging([](Statistics& part) { part.origin.model_hash = "another"; });
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().exit, Exit::locked);
  EXPECT_EQ(model.error().rule, "IM05");
  EXPECT_EQ(model.error().got, "another");
  EXPECT_EQ(model.error().limit, "model");
  EXPECT_EQ(merging([](Statistics& part) { part.origin.token_hash = "x"; }).error().exit, Exit::locked);
  EXPECT_EQ(merging([](Statistics& part) { part.origin.seed = 9; }).error().exit, Exit::locked);
  EXPECT_EQ(merging([](Statistics& part) { part.windows = {3, 8}; }).error().what, "parts overlap");
  EXPECT_EQ(merging([](Statistics& part) { part.windows = {5, 8}; }).error().exit, Exit::malformed);
  const auto site_of = [](Statistics& part) -> SiteStatistics& { return part.sites.begin()->second; };
  EXPECT_EQ(merging([&](Statistics& part) { site_of(part).abs_sum.clear(); }).error().rule, "IM07");
  EXPECT_EQ(merging([&](Statistics& part) { site_of(part).histogram->limit = 2.0; }).error().rule, "IM07");
  EXPECT_EQ(merging([&](Statistics& part) {
              part.sites[{3, Site::mlp_in}] = site_of(part);
            })
                .error()
                .rule,
            "IM07");
}

TEST(Merge, APartWithoutTokensChangesNothing) {
  const Tensor x = activations();
  Statistics empty = part_of(x, 0, 4, 1.0);
  empty.sites.begin()->second = start_site(kWanted, kChannels);
  start_histogram(empty.sites.begin()->second, 1.0);
  empty.sites.begin()->second.has_range = true;
  empty.sites.begin()->second.second_moment = *Tensor::allocate(DType::f32, {kChannels, kChannels});
  empty.windows = {0, 0};
  const Statistics other = part_of(x, 0, 4, 1.0);
  ASSERT_TRUE(merge(empty, other));
  const SiteStatistics &a = empty.sites.begin()->second, &b = other.sites.begin()->second;
  EXPECT_EQ(a.abs_sum, b.abs_sum);
  EXPECT_EQ(a.low, b.low);
  EXPECT_EQ(a.moving_high, b.moving_high);
}

}  // namespace
}  // namespace pare::test
