#include "evaluate/training_curve.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace pare {
namespace {

std::vector<TrainingPoint> wave(int64_t count) {
  std::vector<TrainingPoint> points;
  for (int64_t i = 0; i < count; ++i)
    points.push_back({i, 3.0 + std::sin(0.37 * double(i)) / double(1 + i % 7)});
  return points;
}

TEST(Thin, KeepsEndsAndExtremes) {
  for (const int64_t count : {401, 1000, 12345}) {
    auto points = wave(count);
    points[size_t(count / 3)].value = 99.0;
    points[size_t(count / 2)].value = -99.0;
    const auto kept = thin(points);
    EXPECT_LE(kept.size(), kCurvePoints);
    EXPECT_GT(kept.size(), kCurvePoints / 2);
    EXPECT_EQ(kept.front(), points.front());
    EXPECT_EQ(kept.back(), points.back());
    EXPECT_NE(std::find(kept.begin(), kept.end(), points[size_t(count / 3)]), kept.end());
    EXPECT_NE(std::find(kept.begin(), kept.end(), points[size_t(count / 2)]), kept.end());
    for (size_t i = 1; i < kept.size(); ++i) EXPECT_LT(kept[i - 1].step, kept[i].step);
  }
}

TEST(Thin, LeavesShortCurvesAlone) {
  for (const int64_t count : {0, 1, 2, 399, 400}) EXPECT_EQ(thin(wave(count)), wave(count));
  for (const size_t limit : {4, 5, 6, 7}) EXPECT_LE(thin(wave(100), limit).size(), limit);
}

TEST(Thin, ValuesThatAreNotFiniteCountAsLargest) {
  auto points = wave(5000);
  points[1234].value = std::numeric_limits<double>::infinity();
  const auto kept = thin(points);
  EXPECT_NE(std::find(kept.begin(), kept.end(), points[1234]), kept.end());
}

TEST(TrainingCurve, PerplexityBeforeAndAfter) {
  TrainingCurve curve;
  EXPECT_FALSE(curve.perplexity_before() || curve.perplexity_after());
  curve.validation = {{0, 3.0}};
  EXPECT_NEAR(*curve.perplexity_before(), std::exp(3.0), 1e-12);
  EXPECT_FALSE(curve.perplexity_after()) << "nothing was trained";
  curve.validation = {{5, 2.5}, {10, 2.0}};
  EXPECT_FALSE(curve.perplexity_before()) << "measured too late";
  EXPECT_NEAR(*curve.perplexity_after(), std::exp(2.0), 1e-12);
}

}  // namespace
}  // namespace pare
