#include "quantize/round_to_nearest.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "engine/core/parallel.h"
#include "engine/core/random.h"

namespace pare {
namespace {

Tensor random_matrix(int64_t out, int64_t in, DType dtype, uint32_t stream = 1) {
  Tensor weight = Tensor::allocate(DType::f32, {out, in}).value();
  const Random random(3, RandomPurpose::test_data, stream);
  for (int64_t i = 0; i < weight.numel(); ++i)
    weight.mutable_data<float>()[i] = 0.05f * random.normal(uint64_t(i));
  return dtype == DType::f32 ? weight : converted(weight, dtype).value();
}

QuantizeOutput quantize(const Tensor& weight, const char* scheme, QuantizeOptions options = {}) {
  auto result = round_to_nearest(weight, QuantScheme::parse(scheme).value(), options, "w");
  EXPECT_TRUE(result.has_value()) << (result ? "" : format_error(result.error()));
  return *std::move(result);
}

class RtnTest : public testing::TestWithParam<std::tuple<const char*, int64_t, int64_t, DType>> {};

// What was reported must be what the stored codes give back.
TEST_P(RtnTest, ReportMatchesStoredCodes) {
  const auto& [scheme, out, in, dtype] = GetParam();
  const Tensor weight = random_matrix(out, in, dtype);
  const QuantizeOutput output = quantize(weight, scheme);
  ASSERT_TRUE(output.tensor.validate("test", "w").has_value());
  const Tensor original = converted(weight, DType::f32).value(), back = output.tensor.dequantize().value();
  double error = 0, total = 0, largest = 0;
  for (int64_t i = 0; i < original.numel(); ++i) {
    const double d = double(original.data<float>()[i]) - back.data<float>()[i];
    error += d * d;
    total += double(original.data<float>()[i]) * original.data<float>()[i];
    largest = std::max(largest, std::abs(d));
  }
  EXPECT_NEAR(output.relative_error, std::sqrt(error / total), 1e-9);
  EXPECT_NEAR(output.max_error, largest, 1e-12);
  // 1 - 2<a,b>/(|a|^2+|b|^2) is below the bound that the scheme states for Gaussian weights.
  EXPECT_LT(output.relative_error * output.relative_error / 2.0, output.tensor.scheme.max_relative_error())
      << scheme;
}

INSTANTIATE_TEST_SUITE_P(
    Schemes, RtnTest,
    testing::Combine(testing::Values("int8-ch", "int8-g64", "int4-g128", "int4-g64-asym", "int4-g32-asymf",
                                     "int3-g128", "int6-g64", "int5-g32", "nf4-g64", "fp8-e4m3-ch"),
                     testing::Values(int64_t(1), int64_t(17)),
                     testing::Values(int64_t(128), int64_t(200), int64_t(257)),  // ragged last groups
                     testing::Values(DType::f32, DType::bf16, DType::f16)));

TEST(Rtn, SameBytesForAnyThreadCount) {
  const Tensor weight = random_matrix(129, 320, DType::bf16);
  for (const char* scheme : {"int4-g64-asym", "int8-tensor", "nf4-g64"}) {
    const bool searches = QuantScheme::parse(scheme)->granularity != QuantScheme::Granularity::tensor;
    set_thread_count(1);
    const QuantizeOutput one = quantize(weight, scheme, {.clip_search = searches});
    for (int threads : {2, 3, 8}) {
      set_thread_count(threads);
      const QuantizeOutput many = quantize(weight, scheme, {.clip_search = searches});
      EXPECT_EQ(0,
                std::memcmp(one.tensor.codes.raw(), many.tensor.codes.raw(), one.tensor.codes.size_bytes()));
      EXPECT_EQ(
          0, std::memcmp(one.tensor.scales.raw(), many.tensor.scales.raw(), one.tensor.scales.size_bytes()));
      EXPECT_EQ(one.relative_error, many.relative_error);
    }
  }
  set_thread_count(0);
}

TEST(Rtn, PerTensorScaleCoversAll) {
  Tensor weight = random_matrix(40, 64, DType::f32);
  weight.mutable_data<float>()[39 * 64 + 63] = -3.0f;
  const QuantizeOutput output = quantize(weight, "int8-tensor");
  EXPECT_EQ(output.tensor.scales.numel(), 1);
  EXPECT_NEAR(output.tensor.dequantize().value().data<float>()[39 * 64 + 63], -3.0f, 3.0f * 1e-3f);
}

// Asked for and done in another way would be a silent fallback.
TEST(Rtn, SchemesItCannotServeAreRefused) {
  const Tensor weight = random_matrix(4, 64, DType::f32);
  const auto expect_refused = [&](const char* scheme, const QuantizeOptions& options, const char* word) {
    const auto result = round_to_nearest(weight, QuantScheme::parse(scheme).value(), options, "w");
    ASSERT_FALSE(result.has_value()) << scheme;
    EXPECT_EQ(result.error().exit, Exit::unsupported);
    EXPECT_NE(format_error(result.error()).find(word), std::string::npos) << format_error(result.error());
  };
  expect_refused("int8-tensor", {.clip_search = true}, "--clip");
  expect_refused("codebook4-g32", {}, "codebook");
}

TEST(Rtn, MoreBitsAndSmallerGroupsNeverHurt) {
  const Tensor weight = random_matrix(32, 512, DType::f32);
  double last = 1.0;
  for (const char* scheme : {"int2-g128-asym", "int3-g128-asym", "int4-g128-asym", "int5-g128-asym",
                             "int6-g128-asym", "int8-g128-asym"}) {
    const double error = quantize(weight, scheme).relative_error;
    EXPECT_LT(error, last) << scheme;
    last = error;
  }
  EXPECT_LT(quantize(weight, "int4-g32").relative_error, quantize(weight, "int4-g128").relative_error);
  EXPECT_LT(quantize(weight, "int4-g128").relative_error, quantize(weight, "int4-ch").relative_error);
}

TEST(Rtn, NonFiniteWeightsAreNamedWithPosition) {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Tensor weight = random_matrix(20, 32, DType::f32);
    weight.mutable_data<float>()[12 * 32 + 5] = bad;
    const auto result = round_to_nearest(weight, QuantScheme::parse("int8-ch").value(), {}, "model.w");
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().exit, Exit::numeric);
    EXPECT_NE(format_error(result.error()).find("\"model.w\"[12,5]"), std::string::npos)
        << format_error(result.error());
  }
}

TEST(Rtn, ScaleFaultStopsOrIsCounted) {
  Tensor weight = Tensor::allocate(DType::f32, {4, 32}).value();
  for (int64_t i = 0; i < weight.numel(); ++i) weight.mutable_data<float>()[i] = 1e-6f;
  const auto refused = round_to_nearest(weight, QuantScheme::parse("int8-ch").value(), {}, "w");
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().exit, Exit::numeric);
  EXPECT_EQ(refused.error().rule, "NU17");
  EXPECT_EQ(quantize(weight, "int8-ch", {.clamp_scales = true}).clamped_scales, 4);
  EXPECT_EQ(quantize(weight, "int8-ch-sf32").clamped_scales, 0);
}

TEST(Rtn, EmptyMatrix) {
  const Tensor weight = Tensor::allocate(DType::f32, {0, 64}).value();
  EXPECT_EQ(quantize(weight, "int8-ch").relative_error, 0.0);
}

TEST(Methods, RefusalsNameTheMethod) {
  EXPECT_TRUE(find_quantize_method("rtn").has_value());
  EXPECT_EQ(find_quantize_method("gptq").error().exit, Exit::unsupported);
  EXPECT_EQ(find_quantize_method("rnt").error().exit, Exit::usage);
}

}  // namespace
}  // namespace pare
