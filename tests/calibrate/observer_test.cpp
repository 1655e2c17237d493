#include "calibrate/observer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/core/parallel.h"
#include "engine/core/random.h"

namespace pare::test {
namespace {

constexpr StatisticSet kOnePass = {Statistic::absmean, Statistic::absmax, Statistic::square,
                                   Statistic::range,   Statistic::mean,   Statistic::sample_absmean};

Tensor activations(int64_t tokens, int64_t channels, uint32_t stream = 0) {
  Tensor x = *Tensor::allocate(DType::f32, {tokens, channels});
  const Random random(7, RandomPurpose::test_data, stream);
  for (int64_t i = 0; i < x.numel(); ++i) x.mutable_data<float>()[i] = random.normal(uint64_t(i));
  return x;
}

TEST(Observer, SumsAreThoseOfAPlainLoop) {
  const int64_t tokens = 75, channels = 301;
  const Tensor x = activations(tokens, channels);
  SiteStatistics statistics = start_site(kOnePass, channels);
  ASSERT_TRUE(observe(statistics, kOnePass, x, tokens));
  EXPECT_EQ(statistics.tokens, tokens);
  EXPECT_EQ(statistics.samples, 1);
  for (int64_t c = 0; c < channels; ++c) {
    double sum = 0.0, square = 0.0, plain = 0.0;
    float largest = 0.0f;
    for (int64_t t = 0; t < tokens; ++t) {
      const float value = x.data<float>()[t * channels + c];
      sum += std::fabs(value);
      plain += value;
      square += double(value) * value;
      largest = std::max(largest, std::fabs(value));
    }
    EXPECT_EQ(statistics.abs_sum[c], sum);
    EXPECT_EQ(statistics.square_sum[c], square);
    EXPECT_EQ(statistics.abs_max[c], largest);
    EXPECT_EQ(statistics.sum[c], plain);
    EXPECT_EQ(statistics.sample_square_sum[c], (sum / tokens) * (sum / tokens));
  }
}

TEST(Observer, BatchesAndThreadsDoNotMatter) {
  const int64_t tokens = 8 * 130, channels = 517;
  const Tensor x = activations(tokens, channels);
  const auto run = [&](int64_t rows_at_once, int threads) {
    set_thread_count(threads);
    SiteStatistics statistics = start_site(kOnePass, channels);
    for (int64_t t = 0; t < tokens; t += rows_at_once) {
      EXPECT_TRUE(observe(statistics, kOnePass, x.rows(t, t + rows_at_once), 130));
    }
    start_histogram(statistics, largest_magnitude(statistics));
    for (int64_t t = 0; t < tokens; t += rows_at_once) {
      EXPECT_TRUE(observe_histogram(statistics, x.rows(t, t + rows_at_once)));
    }
    set_thread_count(0);
    return statistics;
  };
  const SiteStatistics whole = run(tokens, 1);
  for (const auto& [rows, threads] : {std::pair{int64_t(130), 1}, {int64_t(260), 3}, {tokens, 4}}) {
    const SiteStatistics other = run(rows, threads);
    EXPECT_EQ(other.abs_sum, whole.abs_sum);
    EXPECT_EQ(other.abs_max, whole.abs_max);
    EXPECT_EQ(other.square_sum, whole.square_sum);
    EXPECT_EQ(other.sum, whole.sum);
    EXPECT_EQ(other.sample_square_sum, whole.sample_square_sum);
    EXPECT_EQ(other.moving_low, whole.moving_low);
    EXPECT_EQ(other.moving_high, whole.moving_high);
    EXPECT_EQ(other.samples, 8);
    EXPECT_EQ(other.histogram->positive, whole.histogram->positive);
    EXPECT_EQ(other.histogram->negative, whole.histogram->negative);
  }
}

TEST(Observer, ViewsWithGapsAreReadByRow) {
  const Tensor x = activations(9, 40);
  Tensor copy = *Tensor::allocate(DType::f32, {9, 11});
  for (int64_t t = 0; t < 9; ++t) {
    std::copy_n(x.data<float>() + t * 40 + 5, 11, copy.mutable_data<float>() + t * 11);
  }
  SiteStatistics a = start_site(kOnePass, 11), b = start_site(kOnePass, 11);
  ASSERT_TRUE(observe(a, kOnePass, x.columns(5, 16), 9));
  ASSERT_TRUE(observe(b, kOnePass, copy, 9));
  EXPECT_EQ(a.abs_sum, b.abs_sum);
  EXPECT_EQ(a.low, b.low);
  EXPECT_EQ(a.high, b.high);
}

TEST(Observer, MovingAverageFollowsItsFormula) {
  SiteStatistics statistics = start_site({Statistic::range}, 2);
  double low = 0.0, high = 0.0;
  for (int sample = 0; sample < 5; ++sample) {
    std::vector<float> values = {-1.0f - sample, 0.5f, 0.25f, 2.0f + 3 * sample};
    const Tensor x = Tensor::wrap(values.data(), DType::f32, {2, 2});
    ASSERT_TRUE(observe(statistics, {Statistic::range}, x, 2));
    low = sample == 0 ? -1.0 : 0.99 * low + 0.01 * (-1.0 - sample);
    high = sample == 0 ? 2.0 : 0.99 * high + 0.01 * (2.0 + 3 * sample);
  }
  EXPECT_NEAR(statistics.moving_low, low, 1e-15);
  EXPECT_NEAR(statistics.moving_high, high, 1e-15);
  EXPECT_EQ(statistics.low, -5.0f);
  EXPECT_EQ(statistics.high, 14.0f);
}

TEST(Observer, HistogramCountsBySignWithEdgesAsStated) {
  // limit 2048: bins of width 1, so that a value's bin can be read off.
  std::vector<float> values = {0.0f, -0.0f, 0.5f, 1.0f, -1.5f, 2047.0f, 2048.0f, -2048.0f};
  SiteStatistics statistics = start_site({}, 8);
  start_histogram(statistics, 2048.0);
  ASSERT_TRUE(observe_histogram(statistics, Tensor::wrap(values.data(), DType::f32, {1, 8})));
  const Histogram& histogram = *statistics.histogram;
  EXPECT_EQ(histogram.positive[0], 3u);
  EXPECT_EQ(histogram.positive[1], 1u);
  EXPECT_EQ(histogram.negative[1], 1u);
  EXPECT_EQ(histogram.positive[2047], 2u);
  EXPECT_EQ(histogram.negative[2047], 1u);
}

TEST(Observer, ZerosHaveAHistogramToo) {
  std::vector<float> values(6, 0.0f);
  SiteStatistics statistics = start_site({Statistic::histogram}, 3);
  const Tensor x = Tensor::wrap(values.data(), DType::f32, {2, 3});
  ASSERT_TRUE(observe(statistics, {Statistic::histogram}, x, 2));
  start_histogram(statistics, largest_magnitude(statistics));
  ASSERT_TRUE(observe_histogram(statistics, x));
  EXPECT_EQ(statistics.histogram->limit, 0.0);
  EXPECT_EQ(statistics.histogram->positive[0], 6u);
}

TEST(Observer, NonFiniteValuesStopBeforeAnythingIsAdded) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    Tensor x = activations(70, 33);
    x.mutable_data<float>()[65 * 33 + 7] = bad;
    x.mutable_data<float>()[66 * 33 + 1] = bad;
    SiteStatistics statistics = start_site(kOnePass, 33);
    const Status status = observe(statistics, kOnePass, x, 70);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().exit, Exit::numeric);
    EXPECT_EQ(status.error().rule, "NU06");
    EXPECT_EQ(status.error().where, "[65,7]");
    EXPECT_EQ(statistics.tokens, 0);
    EXPECT_THAT(statistics.abs_sum, testing::Each(0.0));
    start_histogram(statistics, 1.0);
    EXPECT_FALSE(observe_histogram(statistics, x));
  }
}

}  // namespace
}  // namespace pare::test
