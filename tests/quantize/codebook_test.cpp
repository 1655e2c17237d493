#include "quantize/codebook.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/core/parallel.h"
#include "quantize/round_to_nearest.h"
#include "tests/quantize/problem.h"

namespace pare::test {
namespace {

QuantizeOutput run(const Tensor& weight, const char* scheme, const QuantizeOptions& options = {}) {
  auto output = k_means(weight, QuantScheme::parse(scheme).value(), options, "w");
  EXPECT_TRUE(output.has_value()) << (output ? "" : format_error(output.error()));
  return *std::move(output);
}

ValueHistogram histogram_of(uint32_t stream, int count) {
  const Random random(31, RandomPurpose::test_data, stream);
  ValueHistogram histogram;
  for (int i = 0; i < count; ++i)
    histogram.add(std::tanh(0.5f * random.normal(uint64_t(i))), 0.1 + double(random.uniform(uint64_t(i), 1)));
  return histogram;
}

TEST(KMeans, ObjectiveNeverRises) {
  for (uint32_t stream = 0; stream < 5; ++stream)
    for (const int count : {4, 8, 16, 100}) {
      const ValueHistogram histogram = histogram_of(stream, 3000);
      double last = std::numeric_limits<double>::infinity();
      for (int rounds = 0; rounds <= 50; ++rounds) {
        const std::vector<float> codebook = fit_codebook(histogram, count, {.rounds = rounds});
        ASSERT_EQ(codebook.size(), size_t(count));
        EXPECT_TRUE(std::is_sorted(codebook.begin(), codebook.end()));
        const double error = codebook_error(histogram, codebook);
        EXPECT_LE(error, last * (1.0 + 1e-9)) << count << " values, round " << rounds;
        last = error;
      }
      EXPECT_LT(last, codebook_error(histogram, fit_codebook(histogram, count, {.rounds = 0})));
    }
}

// Two clusters far apart, and one light outlier.
TEST(KMeans, FindsClusters) {
  ValueHistogram histogram;
  for (int i = 0; i < 100; ++i) {
    histogram.add(-0.5f + 0.0001f * float(i % 3 - 1), 1.0);
    histogram.add(0.25f, 3.0);
  }
  histogram.add(1.0f, 0.001);
  const std::vector<float> two = fit_codebook(histogram, 2);
  EXPECT_NEAR(two[0], -0.5, 1e-4);
  EXPECT_NEAR(two[1], 0.25, 1e-4);
}

TEST(KMeans, DistinctValuesAreHitExactly) {
  ValueHistogram histogram;
  const std::vector<float> values = {-1.0f, -0.3f, -0.001f, 0.0f, 0.123f, 0.9f};
  for (size_t i = 0; i < values.size(); ++i) histogram.add(values[i], 1.0 + double(i));
  for (const int count : {6, 8, 16}) {
    const std::vector<float> codebook = fit_codebook(histogram, count);
    for (const float value : values)
      EXPECT_NE(std::find(codebook.begin(), codebook.end(), value), codebook.end());
    EXPECT_EQ(codebook_error(histogram, codebook), 0.0);
  }
  // Also those that quantiles miss.
  for (int i = 0; i < 30; ++i) histogram.add(0.9f, 1000.0);
  EXPECT_EQ(codebook_error(histogram, fit_codebook(histogram, 6)), 0.0);
}

TEST(KMeans, ZeroIsKeptOnRequest) {
  const ValueHistogram histogram = histogram_of(9, 2000);
  for (const int count : {4, 16}) {
    const std::vector<float> codebook = fit_codebook(histogram, count, {.exact_zero = true});
    EXPECT_EQ(std::count(codebook.begin(), codebook.end(), 0.0f), 1);
    EXPECT_TRUE(std::is_sorted(codebook.begin(), codebook.end()));
  }
}

TEST(KMeans, BeatsFixedCodesOnTheSameGroups) {
  const Tensor weight = random_weight(64, 512);
  const double nf4 = round_to_nearest(weight, QuantScheme::parse("nf4-g64").value(), {}, "w")->relative_error;
  const QuantizeOutput fitted = run(weight, "kmeans4-g64");
  EXPECT_LT(fitted.relative_error, nf4);
  EXPECT_LT(fitted.relative_error,
            round_to_nearest(weight, QuantScheme::parse("int4-g64").value(), {}, "w")->relative_error);
  double last = 1.0;
  for (const char* scheme : {"kmeans2-g64", "kmeans3-g64", "kmeans4-g64", "kmeans5-g64", "kmeans8-g64"}) {
    const QuantizeOutput output = run(weight, scheme);
    ASSERT_TRUE(output.tensor.validate("test", "w").has_value()) << scheme;
    EXPECT_LT(output.relative_error, 0.75 * last) << scheme;
    EXPECT_LT(output.relative_error * output.relative_error / 2.0, output.tensor.scheme.max_relative_error());
    last = output.relative_error;
  }
}

TEST(KMeans, ReportMatchesStoredCodes) {
  for (const char* scheme :
       {"kmeans4-g64", "kmeans3-ch", "kmeans5-tensor", "kmeans2-g48-sf32", "kmeans8-g32-sbf16"})
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      const Tensor floats = random_weight(7, 200);
      const Tensor weight = dtype == DType::f32 ? floats : converted(floats, dtype).value();
      const Tensor original = converted(weight, DType::f32).value();
      const QuantizeOutput output = run(weight, scheme);
      const Tensor back = output.tensor.dequantize().value();
      double error = 0.0, total = 0.0;
      const int64_t width = output.tensor.scheme.group_width(200);
      for (int64_t i = 0; i < original.numel(); ++i) {
        const double w = double(original.data<float>()[i]), d = w - double(back.data<float>()[i]);
        error += d * d;
        total += w * w;
      }
      EXPECT_NEAR(output.relative_error, std::sqrt(error / total), 1e-9) << scheme << width;
      // No other code is nearer.
      const std::vector<float> codebook(
          output.tensor.codebook.data<float>(),
          output.tensor.codebook.data<float>() + output.tensor.codebook.numel());
      if (output.tensor.scheme.scale_dtype != DType::f32) continue;
      for (int64_t r = 0; r < 7; ++r)
        for (int64_t i = 0; i < 200; ++i) {
          const float scale =
              output.tensor.scales.data<float>()[r * output.tensor.scheme.groups(200) + i / width];
          const double mine =
              std::abs(double(original.data<float>()[r * 200 + i]) - back.data<float>()[r * 200 + i]);
          for (const float value : codebook)
            EXPECT_LE(mine,
                      std::abs(double(original.data<float>()[r * 200 + i]) - double(scale * value)) + 1e-8);
        }
    }
}

TEST(KMeans, ImportantColumnsGetSmallerErrors) {
  const Tensor weight = random_weight(32, 256);
  std::vector<float> importance(256, 0.01f);
  for (size_t i = 0; i < 32; ++i) importance[i] = 100.0f;
  const auto error_of = [&](const QuantizedTensor& tensor) {
    const Tensor back = tensor.dequantize().value();
    double sum = 0.0;
    for (int64_t i = 0; i < weight.numel(); ++i) {
      const double d = double(weight.data<float>()[i]) - double(back.data<float>()[i]);
      sum += double(importance[size_t(i % 256)]) * d * d;
    }
    return sum;
  };
  EXPECT_LT(error_of(run(weight, "kmeans2-ch", {.importance = importance}).tensor),
            error_of(run(weight, "kmeans2-ch").tensor));
  const std::vector<float> none(256, 0.0f);
  EXPECT_TRUE(
      same_matrix(run(weight, "kmeans2-ch", {.importance = none}).tensor, run(weight, "kmeans2-ch").tensor));
}

TEST(KMeans, PrunedWeightsStayZero) {
  Tensor weight = random_weight(16, 128);
  for (int64_t i = 0; i < weight.numel(); i += 2) weight.mutable_data<float>()[i] = 0.0f;
  for (int64_t i = 0; i < 64; ++i) weight.mutable_data<float>()[i] = 0.0f;  // a whole group
  for (const char* scheme : {"kmeans2-g64", "kmeans3-g64", "kmeans4-ch"}) {
    const Tensor back = run(weight, scheme).tensor.dequantize().value();
    for (int64_t i = 0; i < weight.numel(); ++i) {
      if (weight.data<float>()[i] == 0.0f) {
        ASSERT_EQ(back.data<float>()[i], 0.0f) << scheme;
      }
    }
  }
  const Tensor zeros = times(weight, 0.0f);
  EXPECT_EQ(run(zeros, "kmeans4-g64").relative_error, 0.0);
  EXPECT_EQ(run(zeros, "kmeans4-g64").max_error, 0.0);
}

TEST(KMeans, FewDistinctWeightsAreExact) {
  Tensor weight = Tensor::allocate(DType::f32, {8, 64}).value();
  const float values[] = {-1.0f, -0.25f, 0.125f, 0.5f, 1.0f};
  for (int64_t i = 0; i < weight.numel(); ++i) weight.mutable_data<float>()[i] = values[(i * 7 + i / 64) % 5];
  EXPECT_TRUE(same_bytes(run(weight, "kmeans3-ch").tensor.dequantize().value(), weight));
}

TEST(KMeans, SameBytesForAnyThreadCount) {
  const Tensor weight = random_weight(600, 96);  // several parts
  set_thread_count(1);
  const QuantizeOutput one = run(weight, "kmeans4-g32");
  set_thread_count(3);
  const QuantizeOutput many = run(weight, "kmeans4-g32");
  set_thread_count(0);
  EXPECT_TRUE(same_matrix(one.tensor, many.tensor));
  EXPECT_EQ(one.relative_error, many.relative_error);
}

TEST(KMeans, AFactorOnTheWeightsChangesNoCode) {
  const Tensor weight = random_weight(8, 128);
  const QuantizedTensor once = run(weight, "kmeans3-g64-sf32").tensor,
                        scaled = run(times(weight, 0.25f), "kmeans3-g64-sf32").tensor;
  EXPECT_TRUE(same_bytes(once.codes, scaled.codes));
  EXPECT_TRUE(same_bytes(once.codebook, scaled.codebook));
}

TEST(KMeans, OtherSchemesAndRangeSearchAreRefused) {
  const Tensor weight = random_weight(4, 64);
  for (const char* scheme : {"int4-g32", "nf4-g64", "fp8-e4m3-ch"})
    EXPECT_EQ(k_means(weight, QuantScheme::parse(scheme).value(), {}, "w").error().exit, Exit::unsupported);
  EXPECT_EQ(
      k_means(weight, QuantScheme::parse("kmeans4-g64").value(), {.clip_search = true}, "w").error().rule,
      "RC14");
  Tensor bad = times(weight, 1.0f);
  bad.mutable_data<float>()[3] = INFINITY;
  EXPECT_EQ(k_means(bad, QuantScheme::parse("kmeans4-g64").value(), {}, "w").error().exit, Exit::numeric);
  const Tensor empty = Tensor::allocate(DType::f32, {0, 64}).value();
  EXPECT_EQ(run(empty, "kmeans4-g64").relative_error, 0.0);
}

TEST(Methods, AreFoundByName) {
  for (const char* name : {"rtn", "hqq", "kmeans"}) {
    ASSERT_TRUE(find_quantize_method(name).has_value()) << name;
    EXPECT_EQ((*find_quantize_method(name))->name, name);
  }
}

}  // namespace
}  // namespace pare::test
