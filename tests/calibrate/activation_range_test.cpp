#include "calibrate/activation_range.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "calibrate/observer.h"
#include "engine/core/random.h"

namespace pare::test {
namespace {

const RangeObserver kAll[] = {RangeObserver::min_max, RangeObserver::moving_average,
                              RangeObserver::percentile, RangeObserver::mse, RangeObserver::entropy};

// What two passes over the values give.
SiteStatistics seen(std::vector<float> values) {
  const Tensor x = Tensor::wrap(values.data(), DType::f32, {int64_t(values.size()), 1});
  SiteStatistics statistics = start_site({Statistic::histogram}, 1);
  EXPECT_TRUE(observe(statistics, {Statistic::histogram}, x, int64_t(values.size())));
  start_histogram(statistics, largest_magnitude(statistics));
  EXPECT_TRUE(observe_histogram(statistics, x));
  return statistics;
}

std::vector<float> gaussian(int64_t count) {
  const Random random(11, RandomPurpose::test_data);
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = random.normal(i);
  return values;
}

double high_of(const SiteStatistics& statistics, RangeObserver observer, bool symmetric = true) {
  const auto range = activation_range(statistics, {.observer = observer, .is_symmetric = symmetric});
  EXPECT_TRUE(range);
  return range->high;
}

TEST(ActivationRange, NamesReadBack) {
  for (const RangeObserver observer : kAll) {
    EXPECT_EQ(*parse_range_observer(range_observer_name(observer)), observer);
  }
  const auto unknown = parse_range_observer("median");
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().exit, Exit::usage);
}

// Published behaviour of the rules (docs/methods.md).
TEST(ActivationRange, EntropyOfAUniformHistogramKeepsEverything) {
  const std::vector<uint64_t> uniform(2048, 1000);
  EXPECT_EQ(entropy_edge(uniform, 3.5, {}), 3.5);
}

TEST(ActivationRange, EntropyIsNotDisabledByOneFarOutlier) {
  std::vector<float> values = gaussian(1'000'000);
  values.push_back(100.0f);
  EXPECT_NEAR(high_of(seen(values), RangeObserver::entropy), 6.3, 0.1);
}

TEST(ActivationRange, EntropyClipsTwentyOutliers) {
  std::vector<float> values = gaussian(1'000'000);
  for (int i = 0; i < 20; ++i) values.push_back(20.0f);
  EXPECT_NEAR(high_of(seen(values), RangeObserver::entropy), 4.8, 0.25);
}

TEST(ActivationRange, OrderOfSamplesDoesNotMatter) {
  std::vector<float> values = gaussian(20'000);
  values[17] = 30.0f;
  const SiteStatistics forward = seen(values);
  std::reverse(values.begin(), values.end());
  const SiteStatistics backward = seen(values);
  for (const RangeObserver observer : kAll) {
    EXPECT_EQ(high_of(forward, observer), high_of(backward, observer)) << range_observer_name(observer);
  }
}

TEST(ActivationRange, EntropyFallsBackToTheRangeWithoutCandidates) {
  EXPECT_EQ(entropy_edge(std::vector<uint64_t>(100, 5), 2.0, {}), 2.0);   // fewer bins than the start
  EXPECT_EQ(entropy_edge(std::vector<uint64_t>(2048, 0), 2.0, {}), 2.0);  // nothing counted
}

// The definition, term by term, against the incremental form.
TEST(ActivationRange, EntropyFollowsItsDefinition) {
  const Random random(3, RandomPurpose::test_data);
  std::vector<uint64_t> counts(160);
  for (size_t i = 0; i < counts.size(); ++i) {
    counts[i] =
        random.below(7, i) == 0 ? 0 : uint64_t(4000.0 * std::exp(-double(i) / 18.0)) + random.below(9, i, 1);
  }
  const int start = 24, levels = 8;
  std::vector<uint64_t> hist = counts;
  hist[0] = hist[1];
  double least = INFINITY;
  int best = -1;
  for (int i = start; i <= int(hist.size()); ++i) {
    std::vector<double> p(hist.begin(), hist.begin() + i), q(size_t(i), 0.0);
    int e = i - 1;
    while (hist[e] == 0) --e;
    for (size_t j = size_t(i); j < hist.size(); ++j) p[e] += double(hist[j]);
    for (int l = 0; l < levels; ++l) {
      double sum = 0.0, filled = 0.0;
      for (int j = 0; j < i; ++j) {
        if (j * levels / i == l) sum += double(hist[j]), filled += hist[j] != 0 ? 1 : 0;
      }
      for (int j = 0; j < i; ++j) {
        if (j * levels / i == l && hist[j] != 0) q[j] = sum / filled;
      }
    }
    double sum_p = 0.0, sum_q = 0.0, kl = 0.0;
    for (int j = 0; j < i; ++j) sum_p += p[j], sum_q += q[j];
    for (int j = 0; j < i; ++j) {
      if (p[j] > 0) kl += p[j] / sum_p * std::log(p[j] / sum_p / (q[j] / sum_q));
    }
    if (kl <= least) least = kl, best = i;
  }
  EXPECT_EQ(entropy_edge(counts, 160.0, {.bits = 4, .start = start}), double(best));
}

TEST(ActivationRange, PercentileIsTheUpperEdge) {
  std::vector<uint64_t> counts(10, 0);
  counts[0] = 90, counts[3] = 9, counts[8] = 1;
  EXPECT_EQ(percentile_edge(counts, 10.0, 90.0), 1.0);
  EXPECT_EQ(percentile_edge(counts, 10.0, 91.0), 4.0);
  EXPECT_EQ(percentile_edge(counts, 10.0, 99.0), 4.0);
  EXPECT_EQ(percentile_edge(counts, 10.0, 99.5), 9.0);
  counts[9] = 1;
  EXPECT_EQ(percentile_edge(counts, 10.0, 100.0), 10.0);
  EXPECT_EQ(percentile_edge(std::vector<uint64_t>(4, 0), 1.0, 50.0), 0.0);
}

TEST(ActivationRange, PercentileOfOneHundredIsTheMaximum) {
  const SiteStatistics statistics = seen({-3.0f, -1.0f, 0.5f, 1.25f});
  const auto sides = activation_range(
      statistics, {.observer = RangeObserver::percentile, .is_symmetric = false, .percentile = 100.0});
  ASSERT_TRUE(sides);
  EXPECT_EQ(sides->low, -3.0);
  EXPECT_EQ(sides->high, 1.25);
  const auto whole =
      activation_range(statistics, {.observer = RangeObserver::percentile, .percentile = 100.0});
  EXPECT_EQ(whole->high, 3.0);
}

TEST(ActivationRange, RoundedErrorIsNeverAboveThatOfTheWholeRange) {
  for (const bool symmetric : {true, false}) {
    std::vector<float> values = gaussian(50'000);
    for (float& value : values) value = symmetric ? value : std::fabs(value) - 0.1f;
    values[5] = 40.0f;
    const SiteStatistics statistics = seen(values);
    const auto error = [&](RangeObserver observer) {
      const auto range =
          activation_range(statistics, {.observer = observer, .is_symmetric = symmetric, .bits = 4});
      const ActivationGrid grid = fit_activation_grid(*range, 4, symmetric);
      double sum = 0.0;
      for (const float x : values) {
        const double code =
            std::clamp<double>(std::nearbyint(x / grid.scale) + grid.zero_point, grid.lowest, grid.highest);
        sum += std::pow(grid.scale * (code - grid.zero_point) - x, 2);
      }
      return sum;
    };
    EXPECT_LT(error(RangeObserver::mse), 0.5 * error(RangeObserver::min_max));
  }
}

TEST(ActivationRange, GridsAreThoseOfTheInt8Kernels) {
  const ActivationGrid symmetric = fit_activation_grid({-2.54, 2.54, false}, 8, true);
  EXPECT_FLOAT_EQ(symmetric.scale, 0.02f);
  EXPECT_EQ(symmetric.zero_point, 0);
  EXPECT_EQ(symmetric.lowest, -127);
  EXPECT_EQ(symmetric.highest, 127);
  const ActivationGrid sides = fit_activation_grid({-1.0, 2.0, false}, 4, false);
  EXPECT_FLOAT_EQ(sides.scale, 0.2f);
  EXPECT_EQ(sides.zero_point, 5);
  EXPECT_EQ(sides.highest, 15);
}

TEST(ActivationRange, ZerosGiveScaleOneAndAreReported) {
  const SiteStatistics zeros = seen(std::vector<float>(64, 0.0f));
  for (const RangeObserver observer : kAll) {
    const auto range = activation_range(zeros, {.observer = observer});
    ASSERT_TRUE(range);
    EXPECT_TRUE(range->is_all_zero);
    EXPECT_EQ(fit_activation_grid(*range, 8, true).scale, 1.0f);
  }
}

TEST(ActivationRange, RefusesWhatItCannotAnswer) {
  EXPECT_EQ(activation_range(start_site({Statistic::range}, 4), {}).error().exit, Exit::numeric);
  const SiteStatistics statistics = seen({1.0f, 2.0f});
  EXPECT_EQ(activation_range(statistics, {.percentile = 0.0}).error().exit, Exit::usage);
  EXPECT_EQ(activation_range(statistics, {.percentile = NAN}).error().exit, Exit::usage);
  EXPECT_EQ(activation_range(statistics, {.bits = 16}).error().exit, Exit::usage);
  EXPECT_EQ(
      activation_range(statistics, {.observer = RangeObserver::entropy, .is_symmetric = false}).error().exit,
      Exit::unsupported);
}

}  // namespace
}  // namespace pare::test
