#include "evaluate/histogram.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/core/parallel.h"
#include "tests/support/tiny_model.h"

namespace pare::test {
namespace {

TEST(MagnitudeHistogram, EdgesAreQuarterOctaves) {
  EXPECT_EQ(MagnitudeHistogram::edge(0), std::ldexp(1.0, -12));
  EXPECT_EQ(MagnitudeHistogram::edge(48), 1.0);
  EXPECT_EQ(MagnitudeHistogram::edge(49), 1.25);
  EXPECT_EQ(MagnitudeHistogram::edge(MagnitudeHistogram::kBins), 4096.0);
  for (int i = 0; i < MagnitudeHistogram::kBins; ++i)
    EXPECT_LT(MagnitudeHistogram::edge(i), MagnitudeHistogram::edge(i + 1));
}

TEST(MagnitudeHistogram, EveryEdgeBelongsToTheBinItOpens) {
  for (int bin = 0; bin < MagnitudeHistogram::kBins; ++bin) {
    const float low = float(MagnitudeHistogram::edge(bin));
    const float high = std::nextafter(float(MagnitudeHistogram::edge(bin + 1)), 0.0f);
    float values[] = {low, -low, high};
    MagnitudeHistogram histogram;
    histogram.add(Tensor::wrap(values, DType::f32, {3}));
    EXPECT_EQ(histogram.counts[size_t(bin)], 3u) << bin;
    EXPECT_EQ(histogram.largest, double(high));
  }
}

TEST(MagnitudeHistogram, WhatLiesOutsideIsCounted) {
  float values[] = {0.0f, -0.0f, 1e-6f, 4096.0f, -5000.0f, 3.0f};
  MagnitudeHistogram histogram;
  histogram.add(Tensor::wrap(values, DType::f32, {2, 3}));
  EXPECT_EQ(histogram.below, 3u);
  EXPECT_EQ(histogram.zeros, 2u);
  EXPECT_EQ(histogram.above, 2u);
  EXPECT_EQ(histogram.total(), 6u);
  EXPECT_EQ(histogram.largest, 5000.0);
}

TEST(MagnitudeHistogram, SumsDoNotDependOnThreads) {
  const Tensor x = random_normal({331, 997}, "x", 0.0f, 1.0f);
  MagnitudeHistogram sums[2];
  for (int threads : {1, 3}) {
    set_thread_count(threads);
    sums[threads / 2].add(x);
  }
  set_thread_count(0);
  EXPECT_EQ(sums[0].counts, sums[1].counts);
  EXPECT_EQ(sums[0].square_sum, sums[1].square_sum);
  EXPECT_NEAR(sums[0].square_sum / double(sums[0].total()), 1.0, 0.02);
}

TEST(ValueHistogram, BinsAndEnds) {
  float values[] = {-1.0f, -0.999f, 0.0f, 0.999f, 1.0f, 1.5f, -7.0f};
  const ValueHistogram histogram = value_histogram(Tensor::wrap(values, DType::f32, {7}), 1.0);
  EXPECT_EQ(histogram.counts.front(), 3u);
  EXPECT_EQ(histogram.counts[ValueHistogram::kBins / 2], 1u);
  EXPECT_EQ(histogram.counts.back(), 3u);
  EXPECT_EQ(histogram.outside, 2u);
  EXPECT_EQ(histogram.largest, 7.0);
}

TEST(ValueHistogram, ZerosAndNothing) {
  float zeros[5] = {};
  EXPECT_EQ(value_histogram(Tensor::wrap(zeros, DType::f32, {5}), 0.0).total(), 5u);
  EXPECT_EQ(value_histogram(Tensor::wrap(zeros, DType::f32, {0, 4}), 1.0).total(), 0u);
}

}  // namespace
}  // namespace pare::test
