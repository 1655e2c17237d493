#include "quantize/hqq.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/core/parallel.h"
#include "quantize/round_to_nearest.h"
#include "tests/quantize/problem.h"

namespace pare::test {
namespace {

QuantizeOutput run(const Tensor& weight, const char* scheme, const QuantizeOptions& options = {}) {
  auto output = half_quadratic(weight, QuantScheme::parse(scheme).value(), options, "w");
  EXPECT_TRUE(output.has_value()) << (output ? "" : format_error(output.error()));
  return *std::move(output);
}

// mean |w - what| of each group, weighted
std::vector<double> group_errors(const Tensor& weight, const QuantizedTensor& tensor,
                                 const std::vector<float>& importance = {}) {
  const Tensor back = tensor.dequantize().value();
  const int64_t out = weight.size(0), in = weight.size(1), width = tensor.scheme.group_width(in);
  std::vector<double> errors;
  for (int64_t r = 0; r < out; ++r)
    for (int64_t first = 0; first < in; first += width) {
      double sum = 0.0, total = 0.0;
      for (int64_t i = first; i < std::min(in, first + width); ++i) {
        const double u = importance.empty() ? 1.0 : double(importance[i]);
        sum +=
            u * std::abs(double(weight.data<float>()[r * in + i]) - double(back.data<float>()[r * in + i]));
        total += u;
      }
      errors.push_back(sum / total);
    }
  return errors;
}

// Weights that are not symmetric about anything.
Tensor skewed_weight(int64_t out, int64_t in, uint32_t stream = 1) {
  Tensor weight = random_weight(out, in, stream);
  for (int64_t i = 0; i < weight.numel(); ++i) {
    float& w = weight.mutable_data<float>()[i];
    w = 0.02f * std::exp(20.0f * w) - 0.01f;
  }
  return weight;
}

TEST(Hqq, NoGroupIsWorseThanItsStart) {
  for (const char* scheme : {"int2-g64-asymf", "int3-g64-asymf", "int4-g128-asymf", "int4-ch-asymf-sf32",
                             "int3-g48-asym", "int4-g64-asym", "int8-g32-asymf-sbf16"})
    for (const bool clip : {false, true})
      for (const Tensor& weight : {random_weight(9, 200), skewed_weight(9, 200)}) {
        const QuantizeOptions options{.clip_search = clip};
        const QuantizeOutput output = run(weight, scheme, options);
        ASSERT_TRUE(output.tensor.validate("test", "w").has_value());
        const auto start = round_to_nearest(weight, QuantScheme::parse(scheme).value(), options, "w");
        const std::vector<double> before = group_errors(weight, start->tensor),
                                  after = group_errors(weight, output.tensor);
        for (size_t g = 0; g < before.size(); ++g) EXPECT_LE(after[g], before[g] * (1.0 + 1e-12)) << scheme;
        EXPECT_TRUE(same_bytes(output.tensor.scales, start->tensor.scales)) << "only offsets move";
      }
}

TEST(Hqq, PaysOnFewBits) {
  const Tensor weight = skewed_weight(32, 512);
  const auto mean = [](const std::vector<double>& values) {
    double sum = 0.0;
    for (const double value : values) sum += value;
    return sum / double(values.size());
  };
  for (const char* scheme : {"int2-g64-asymf", "int3-g64-asymf"}) {
    const auto start = round_to_nearest(weight, QuantScheme::parse(scheme).value(), {}, "w");
    EXPECT_LT(mean(group_errors(weight, run(weight, scheme).tensor)),
              0.97 * mean(group_errors(weight, start->tensor)))
        << scheme;
  }
}

TEST(Hqq, ImportancesWeighTheMean) {
  const Tensor weight = skewed_weight(16, 256);
  std::vector<float> importance(256);
  for (size_t i = 0; i < importance.size(); ++i) importance[i] = i % 8 == 0 ? 50.0f : 0.1f;
  const QuantizedTensor with = run(weight, "int2-g64-asymf", {.importance = importance}).tensor,
                        without = run(weight, "int2-g64-asymf").tensor;
  double sum_with = 0.0, sum_without = 0.0;
  for (const double e : group_errors(weight, with, importance)) sum_with += e;
  for (const double e : group_errors(weight, without, importance)) sum_without += e;
  EXPECT_LT(sum_with, sum_without);
  const std::vector<float> ones(256, 2.0f), none(256, 0.0f);
  EXPECT_TRUE(same_matrix(run(weight, "int2-g64-asymf", {.importance = ones}).tensor, without));
  EXPECT_TRUE(
      same_matrix(run(weight, "int2-g64-asymf", {.importance = none}).tensor,
                  round_to_nearest(weight, QuantScheme::parse("int2-g64-asymf").value(), {}, "w")->tensor));
}

TEST(Hqq, AFactorOnTheWeightsChangesNoCode) {
  const Tensor weight = skewed_weight(8, 128);
  for (const char* scheme : {"int3-g64-asymf-sf32", "int3-g64-asym-sf32"}) {
    const QuantizedTensor once = run(weight, scheme).tensor,
                          scaled = run(times(weight, 64.0f), scheme).tensor;
    EXPECT_TRUE(same_bytes(once.codes, scaled.codes)) << scheme;
  }
}

TEST(Hqq, ConstantsZerosAndGridPointsAreExact) {
  Tensor weight = random_weight(3, 64);
  for (int64_t i = 0; i < 64; ++i) {
    weight.mutable_data<float>()[i] = 0.0f;
    weight.mutable_data<float>()[64 + i] = 0.75f;
    weight.mutable_data<float>()[128 + i] = 0.125f * float(i % 16) - 0.5f;
  }
  const QuantizeOutput output = run(weight, "int4-g32-asymf");
  EXPECT_TRUE(same_bytes(output.tensor.dequantize().value(), weight));
  EXPECT_EQ(output.relative_error, 0.0);
}

TEST(Hqq, SameBytesForAnyThreadCount) {
  const Tensor weight = skewed_weight(65, 192);
  set_thread_count(1);
  const QuantizeOutput one = run(weight, "int3-g64-asymf");
  set_thread_count(4);
  const QuantizeOutput many = run(weight, "int3-g64-asymf");
  set_thread_count(0);
  EXPECT_TRUE(same_matrix(one.tensor, many.tensor));
  EXPECT_EQ(one.relative_error, many.relative_error);
}

TEST(Hqq, SchemesWithoutAnOffsetAreRefused) {
  const Tensor weight = random_weight(4, 64);
  for (const char* scheme :
       {"int4-g32", "int8-ch", "nf4-g64", "fp8-e4m3-ch", "codebook4-g32", "int8-tensor-asym"}) {
    const auto refused = half_quadratic(weight, QuantScheme::parse(scheme).value(), {}, "w");
    ASSERT_FALSE(refused.has_value()) << scheme;
    EXPECT_EQ(refused.error().exit, Exit::unsupported);
    EXPECT_EQ(refused.error().rule, "RC14");
  }
  Tensor bad = times(weight, 1.0f);
  bad.mutable_data<float>()[3] = NAN;
  EXPECT_EQ(half_quadratic(bad, QuantScheme::parse("int4-g32-asymf").value(), {}, "w").error().exit,
            Exit::numeric);
}

}  // namespace
}  // namespace pare::test
