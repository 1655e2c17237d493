#include "quantize/grid.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "engine/core/random.h"
#include "engine/tensor/float_formats.h"

namespace pare {
namespace {

QuantScheme scheme(const char* text) {
  return QuantScheme::parse(text).value();
}

std::vector<float> normals(size_t count, uint64_t stream) {
  const Random random(7, RandomPurpose::test_data, uint32_t(stream));
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = random.normal(i);
  return values;
}

std::vector<float> restored(const QuantScheme& s, const Grid& grid, const std::vector<float>& values) {
  std::vector<uint8_t> codes(values.size());
  std::vector<float> out(values.size());
  encode(s, grid, values, codes.data());
  decode(s, grid, codes, out.data());
  return out;
}

double error_of(const QuantScheme& s, const Grid& grid, const std::vector<float>& values, double power) {
  const std::vector<float> back = restored(s, grid, values);
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) sum += std::pow(std::abs(double(back[i]) - values[i]), power);
  return sum;
}

// The check values of the min-max formula: x = (-1, -0.2, 0, 0.73, 2), 4 bits.
TEST(Grid, PublishedExampleIntegerZeroPoint) {
  const std::vector<float> x = {-1.0f, -0.2f, 0.0f, 0.73f, 2.0f};
  const QuantScheme s = scheme("int4-ch-asym-sf32");
  const Grid grid = fit_min_max(s, x).grid;
  EXPECT_FLOAT_EQ(grid.scale, 0.2f);
  EXPECT_EQ(grid.zero_point, 5);
  std::vector<uint8_t> codes(5);
  encode(s, grid, x, codes.data());
  EXPECT_EQ(codes, (std::vector<uint8_t>{0, 4, 5, 9, 15}));
}

TEST(Grid, PublishedExampleShiftedRange) {
  const std::vector<float> x = {-0.9f, -0.2f, 0.0f, 0.73f, 2.0f};
  std::vector<uint8_t> codes(5);
  const QuantScheme with_zero = scheme("int4-ch-asym-sf32");
  Grid grid = fit_min_max(with_zero, x).grid;
  EXPECT_EQ(grid.zero_point, 5);
  encode(with_zero, grid, x, codes.data());
  EXPECT_EQ(codes, (std::vector<uint8_t>{0, 4, 5, 9, 15}));
  EXPECT_EQ(restored(with_zero, grid, x)[2], 0.0f);

  const QuantScheme with_minimum = scheme("int4-ch-asymf-sf32");
  grid = fit_min_max(with_minimum, x).grid;
  encode(with_minimum, grid, x, codes.data());
  EXPECT_EQ(codes, (std::vector<uint8_t>{0, 4, 5, 8, 15}));
  EXPECT_NEAR(restored(with_minimum, grid, x)[2], 0.0667f, 1e-4f);
}

TEST(Grid, NarrowRangeIsExactAtBothEnds) {
  const std::vector<float> x = {-127.0f, -3.0f, 0.0f, 64.0f, 127.0f};
  const QuantScheme s = scheme("int8-ch");
  const FittedGrid fitted = fit_min_max(s, x);
  EXPECT_EQ(fitted.grid.scale, 1.0f);
  EXPECT_EQ(restored(s, fitted.grid, x), x);
  std::vector<uint8_t> codes(5);
  encode(s, fitted.grid, x, codes.data());
  EXPECT_EQ(codes.front(), 1);  // -127; code 0 (-128) never appears
}

TEST(Grid, FullRangeReachesMinusEight) {
  const QuantScheme s = scheme("int4-g32");
  const std::vector<float> x = {-7.5f, 7.5f, 1.0f};
  const Grid grid = fit_min_max(s, x).grid;
  EXPECT_EQ(grid.scale, 1.0f);
  EXPECT_EQ(restored(s, grid, x), (std::vector<float>{-8.0f, 7.0f, 1.0f}));
}

TEST(Grid, HalfwayRoundsToEven) {
  const QuantScheme s = scheme("int8-ch-sf32");
  const Grid grid{.scale = 1.0f, .zero_point = 128};
  EXPECT_EQ(restored(s, grid, {0.5f, 1.5f, 2.5f, -0.5f, -1.5f}),
            (std::vector<float>{0.0f, 2.0f, 2.0f, -0.0f, -2.0f}));
}

TEST(Grid, ZerosAndSubnormalsBecomeExactZeros) {
  for (const char* text : {"int8-ch", "int4-g64-asym", "nf4-g64", "fp8-e4m3-ch", "int4-g32-asymf"}) {
    const QuantScheme s = scheme(text);
    for (float value : {0.0f, -0.0f, 1e-42f}) {
      const std::vector<float> x(8, value);
      const FittedGrid fitted = fit_min_max(s, x);
      EXPECT_EQ(fitted.fault, ScaleFault::none) << text;
      for (float back : restored(s, fitted.grid, x)) EXPECT_EQ(back, 0.0f) << text;
    }
  }
}

TEST(Grid, ConstantGroups) {
  const std::vector<float> x(16, 0.75f);
  // With an integer zero point 0 joins the range and the constant is its end.
  EXPECT_NEAR(restored(scheme("int4-g16-asym"), fit_min_max(scheme("int4-g16-asym"), x).grid, x)[0], 0.75f,
              0.75f * 1e-3f);
  // With a float offset the constant is the offset.
  EXPECT_EQ(restored(scheme("int4-g16-asymf"), fit_min_max(scheme("int4-g16-asymf"), x).grid, x)[0], 0.75f);
}

TEST(Grid, ScalesThatTheirTypeCannotHoldAreNamed) {
  EXPECT_EQ(fit_min_max(scheme("int8-ch"), std::vector<float>{1e-6f}).fault, ScaleFault::too_small);
  // A scale that f16 holds as a subnormal is raised to the smallest normal value; the weight stays close.
  const FittedGrid raised = fit_min_max(scheme("int8-ch"), std::vector<float>{1e-3f});
  EXPECT_EQ(raised.fault, ScaleFault::raised);
  EXPECT_EQ(raised.grid.scale, 6.103515625e-05f);
  EXPECT_NEAR(restored(scheme("int8-ch"), raised.grid, {1e-3f})[0], 1e-3f, 3.1e-5f);
  EXPECT_EQ(fit_min_max(scheme("int8-ch"), std::vector<float>{1e8f}).fault, ScaleFault::too_large);
  EXPECT_EQ(fit_min_max(scheme("int8-ch-sf32"), std::vector<float>{1e-4f}).fault, ScaleFault::none);
  EXPECT_EQ(fit_min_max(scheme("int8-ch-sf32"), std::vector<float>{1e8f}).fault, ScaleFault::none);
}

TEST(Grid, ScaleIsExactInItsStorageType) {
  for (const char* text : {"int4-g128", "int8-ch", "int4-g128-asym", "nf4-g64", "int4-g128-sbf16"}) {
    const QuantScheme s = scheme(text);
    const FittedGrid fitted = fit_min_max(s, normals(128, 3));
    EXPECT_EQ(round_to(s.scale_dtype, fitted.grid.scale), fitted.grid.scale) << text;
  }
}

// Every code's error is at most half a step, and at most one step at the clipped end of the full range.
TEST(Grid, ErrorIsBoundedByTheStep) {
  for (const char* text :
       {"int8-ch", "int4-g128", "int3-g128-asym", "int2-g64-asym", "int5-g64-asymf", "int6-g32"}) {
    const QuantScheme s = scheme(text);
    const std::vector<float> x = normals(256, 11);
    const Grid grid = fit_min_max(s, x).grid;
    const std::vector<float> back = restored(s, grid, x);
    for (size_t i = 0; i < x.size(); ++i)
      EXPECT_LE(std::abs(back[i] - x[i]), grid.scale * 0.51f + 2e-3f) << text << " " << x[i];
  }
}

TEST(Grid, Nf4TakesTheNearestValue) {
  const QuantScheme s = scheme("nf4-g64");
  const auto table = nf4_codebook();
  std::vector<float> x(table.begin(), table.end());
  EXPECT_EQ(restored(s, fit_min_max(s, x).grid, x), x);
  const std::vector<float> y = normals(64, 5);
  const Grid grid = fit_min_max(s, y).grid;
  const std::vector<float> back = restored(s, grid, y);
  for (size_t i = 0; i < y.size(); ++i)
    for (float value : table)
      EXPECT_LE(std::abs(back[i] - y[i]), std::abs(grid.scale * value - y[i]) + 1e-6f);
}

// Scale = largest magnitude / largest value of the type; the cast saturates where the rounded scale is too
// small.
TEST(Grid, Fp8SaturatesAndTakesTheNearestValue) {
  for (const auto& [text, top, end] :
       {std::tuple{"fp8-e4m3-ch", 448.0f, 0x7e}, std::tuple{"fp8-e5m2-ch-sf32", 57344.0f, 0x7b}}) {
    const QuantScheme s = scheme(text);
    const auto value_of = [&](int code) {
      return s.float_type == DType::f8_e4m3 ? f8_e4m3_to_float(uint8_t(code))
                                            : f8_e5m2_to_float(uint8_t(code));
    };
    for (uint64_t stream = 0; stream < 20; ++stream) {
      std::vector<float> x = normals(64, 300 + stream);
      const Grid grid = fit_min_max(s, x).grid;
      float largest = 0.0f;
      for (const float v : x) largest = std::max(largest, std::abs(v));
      EXPECT_EQ(grid.scale, round_to(s.scale_dtype, largest / top)) << text;
      for (const float far : {largest, 1.001f * largest, 1e20f}) x.push_back(far), x.push_back(-far);
      std::vector<uint8_t> codes(x.size());
      encode(s, grid, x, codes.data());
      const std::vector<float> back = restored(s, grid, x);
      EXPECT_EQ(codes[x.size() - 2], end);
      EXPECT_EQ(codes[x.size() - 1], end | 0x80);
      for (size_t i = 0; i < x.size(); ++i) {
        ASSERT_TRUE(std::isfinite(back[i])) << text << " " << x[i];
        for (int code = 0; code < 256; ++code) {
          if (!std::isfinite(value_of(code))) continue;
          EXPECT_LE(std::abs(double(back[i]) - x[i]),
                    std::abs(double(grid.scale) * double(value_of(code)) - x[i]) + 1e-6 * std::abs(x[i]))
              << text << " " << x[i];
        }
      }
    }
  }
}

// Of all grids: larger weights never get smaller values, and a power of two on all weights of a group is one
// on the scale.
TEST(Grid, MonotoneAndFreeOfUnits) {
  for (const char* text : {"int8-ch-sf32", "int4-g128-sf32", "int3-g128-asym-sf32", "int4-g128-asymf-sf32",
                           "nf4-g128-sf32", "fp8-e4m3-ch-sf32", "fp8-e5m2-ch-sf32"}) {
    const QuantScheme s = scheme(text);
    std::vector<float> x = normals(128, 17);
    std::sort(x.begin(), x.end());
    const Grid grid = fit_min_max(s, x).grid;
    const std::vector<float> back = restored(s, grid, x);
    EXPECT_TRUE(std::is_sorted(back.begin(), back.end())) << text;
    std::vector<float> scaled = x;
    for (float& v : scaled) v *= 32.0f;
    const Grid scaled_grid = fit_min_max(s, scaled).grid;
    EXPECT_EQ(scaled_grid.scale, 32.0f * grid.scale) << text;
    std::vector<uint8_t> codes(x.size()), scaled_codes(x.size());
    encode(s, grid, x, codes.data());
    encode(s, scaled_grid, scaled, scaled_codes.data());
    EXPECT_EQ(codes, scaled_codes) << text;
  }
}

TEST(Clip, NeverWorseThanMinMaxAndExactOnTheGrid) {
  for (double power : {2.0, 2.4}) {
    for (uint64_t stream = 0; stream < 20; ++stream) {
      for (const char* text : {"int4-g128", "int3-g128", "int4-g128-asym"}) {
        const QuantScheme s = scheme(text);
        std::vector<float> x = normals(128, stream);
        x[stream] *= 6.0f;  // an outlier makes clipping pay
        const double plain = error_of(s, fit_min_max(s, x).grid, x, power);
        const double clipped = error_of(s, fit_clipped(s, x, {.power = power}).grid, x, power);
        EXPECT_LE(clipped, plain * (1.0 + 1e-5)) << text << " power " << power;
      }
    }
  }
  const QuantScheme s = scheme("int4-g16-asym");
  std::vector<float> grid_points;
  for (int code = 0; code < 16; ++code) grid_points.push_back(0.25f * float(code - 6));
  EXPECT_EQ(restored(s, fit_clipped(s, grid_points, {}).grid, grid_points), grid_points);
}

TEST(Clip, PaysOnOutliers) {
  const QuantScheme s = scheme("int3-g128");
  std::vector<float> x = normals(128, 2);
  x[0] = 12.0f;
  EXPECT_LT(error_of(s, fit_clipped(s, x, {.power = 2.0}).grid, x, 2.0),
            0.9 * error_of(s, fit_min_max(s, x).grid, x, 2.0));
}

// The fast powers of the search rank ranges as the library's pow does.
TEST(Clip, ObjectiveAgreesWithPow) {
  const QuantScheme s = scheme("int4-g128");
  for (uint64_t stream = 0; stream < 10; ++stream) {
    const std::vector<float> x = normals(128, 100 + stream);
    const Grid found = fit_clipped(s, x, {.power = 2.4}).grid;
    double best = INFINITY;
    for (int step = 0; step < 80; ++step) {
      const float factor = float(1.0 - step / 100.0);
      const auto [low, high] = std::minmax_element(x.begin(), x.end());
      best = std::min(best, error_of(s, fit_range(s, factor * *low, factor * *high).grid, x, 2.4));
    }
    EXPECT_NEAR(error_of(s, found, x, 2.4), best, best * 1e-5);
  }
}

}  // namespace
}  // namespace pare
