// AWQ and SmoothQuant: what their searches promise, whatever the data.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/backends/cpu/cpu_backend.h"
#include "quantize/awq.h"
#include "calibrate/output_error.h"
#include "quantize/smoothquant.h"
#include "tests/quantize/problem.h"
#include "tests/support/walk.h"

namespace pare {
namespace {

using test::checked;

class ScaleSearch : public ::testing::Test {
 protected:
  void SetUp() override { install_backend(make_cpu_backend()); }

  // Mean |x| as of a Gaussian with this moment.
  static std::vector<float> abs_mean_of(const Tensor& moment) {
    std::vector<float> means;
    for (int64_t j = 0; j < moment.size(0); ++j)
      means.push_back(0.8f * std::sqrt(moment.data<float>()[j * moment.size(0) + j]));
    return means;
  }
  static std::vector<AwqLinear> linears(const char* scheme, int64_t in, int count = 2) {
    std::vector<AwqLinear> result;
    for (int i = 0; i < count; ++i)
      result.push_back({.weight = test::random_weight(12 + 4 * i, in, uint32_t(20 + i)),
                        .scheme = checked(QuantScheme::parse(scheme)),
                        .name = "w" + std::to_string(i)});
    return result;
  }
  // A moment whose channel `loud` is far larger than the others.
  static Tensor loud_moment(int64_t in, int64_t loud, float factor) {
    Tensor moment = test::correlated_moment(in, 5);
    float* h = moment.mutable_data<float>();
    for (int64_t i = 0; i < in; ++i) h[loud * in + i] *= factor, h[i * in + loud] *= factor;
    return moment;
  }
  // Output error with a scale, from the definition, in double.
  static double loss_of(const std::vector<AwqLinear>& linears, std::span<const float> scale,
                        const Tensor& moment) {
    const QuantizeMethod* rtn = checked(find_quantize_method("rtn"));
    double total = 0.0;
    for (const AwqLinear& linear : linears) {
      Tensor scaled = test::times(linear.weight, 1.0f);
      for (int64_t i = 0; i < scaled.numel(); ++i)
        scaled.mutable_data<float>()[i] *= scale[size_t(i % scaled.size(1))];
      Tensor back = checked(checked(rtn->quantize(scaled, linear.scheme, {}, "w")).tensor.dequantize());
      for (int64_t i = 0; i < back.numel(); ++i)
        back.mutable_data<float>()[i] /= scale[size_t(i % back.size(1))];
      total += test::energy_of(linear.weight, &back, moment);
    }
    return total;
  }
};

TEST_F(ScaleSearch, AwqNeverLosesAndReportsWhatItFound) {
  int improved = 0;
  for (const char* scheme : {"int4-g32", "int3-g32-asym", "int8", "int4-ch-sf32"}) {
    for (const float factor : {1.0f, 20.0f}) {
      const Tensor moment = loud_moment(64, 7, factor);
      const auto parts = linears(scheme, 64);
      const AwqScale found = checked(search_awq_scale(parts, abs_mean_of(moment), moment, {}, {}, {}));
      EXPECT_LE(found.loss_ratio, 1.0);
      const std::vector<float> ones(64, 1.0f);
      const double identity = loss_of(parts, ones, moment), best = loss_of(parts, found.scale, moment);
      EXPECT_NEAR(found.loss_ratio, std::sqrt(best / identity), 1e-3) << scheme;
      for (const float value : found.scale) EXPECT_TRUE(std::isfinite(value) && value > 0.0f);
      if (found.is_identity) {
        EXPECT_EQ(found.scale, ones);
      } else {
        const auto [low, high] = std::minmax_element(found.scale.begin(), found.scale.end());
        EXPECT_NEAR(*low * *high, 1.0f, 1e-4f) << "centred around 1";
        ++improved;
      }
    }
  }
  EXPECT_GE(improved, 6);
}

TEST_F(ScaleSearch, AwqPlainFirstExponentIsTheIdentity) {
  const Tensor moment = loud_moment(64, 3, 20.0f);
  const auto parts = linears("int4-g32", 64);
  const AwqScale found =
      checked(search_awq_scale(parts, abs_mean_of(moment), moment, {}, {.steps = 1, .duo = false}, {}));
  EXPECT_TRUE(found.is_identity);
  EXPECT_EQ(found.loss_ratio, 1.0);
  EXPECT_EQ(found.scale, std::vector<float>(64, 1.0f));
}

TEST_F(ScaleSearch, AwqLeavesDeadChannelsAlone) {
  const int64_t in = 64;
  Tensor moment = loud_moment(in, 7, 20.0f);
  float* h = moment.mutable_data<float>();
  for (const int64_t dead : {0, 9, 63})
    for (int64_t i = 0; i < in; ++i) h[dead * in + i] = h[i * in + dead] = 0.0f;
  const AwqScale found =
      checked(search_awq_scale(linears("int3-g32", in), abs_mean_of(moment), moment, {}, {}, {}));
  ASSERT_FALSE(found.is_identity);
  for (const size_t dead : {0, 9, 63}) EXPECT_EQ(found.scale[dead], 1.0f);
  for (const float value : found.scale)
    EXPECT_GT(value, 1e-2f) << "the floor of dead channels distorts no other";
  // Nothing but dead channels.
  const Tensor nothing = test::scaled_identity(in, 0.0f);
  const AwqScale none =
      checked(search_awq_scale(linears("int3-g32", in), std::vector<float>(in, 0.0f), nothing, {}, {}, {}));
  EXPECT_TRUE(none.is_identity);
}

TEST_F(ScaleSearch, AwqSharesOneScaleBetweenCopies) {
  const Tensor moment = loud_moment(64, 7, 20.0f);
  const auto share = [](std::span<float> values) {
    for (size_t j = 0; j < 32; ++j) values[j] = values[j + 32] = (values[j] + values[j + 32]) / 2.0f;
  };
  const AwqScale found =
      checked(search_awq_scale(linears("int3-g32", 64), abs_mean_of(moment), moment, {}, {}, share));
  ASSERT_FALSE(found.is_identity);
  for (size_t j = 0; j < 32; ++j) EXPECT_EQ(found.scale[j], found.scale[j + 32]);
}

TEST_F(ScaleSearch, SmoothingAtOneHalfMakesMaximaEqual) {
  const Random random(8, RandomPurpose::test_data, "smooth");
  std::vector<float> activation, weight;
  for (uint64_t j = 0; j < 50; ++j) {
    activation.push_back(std::exp2(12.0f * random.uniform(j) - 3.0f));
    weight.push_back(std::exp2(6.0f * random.uniform(j, 1) - 6.0f));
  }
  const std::vector<float> scale = smooth_scale(activation, weight, 0.5);
  for (size_t j = 0; j < scale.size(); ++j)
    EXPECT_NEAR(activation[j] / scale[j] / (weight[j] * scale[j]), 1.0f, 1e-5f) << j;
  // The spread of activations falls as alpha rises; at 1 it is gone.
  double last = INFINITY;
  for (const double alpha : {0.0, 0.3, 0.5, 0.8, 1.0}) {
    std::vector<float> smoothed;
    const std::vector<float> s = smooth_scale(activation, std::vector<float>(50, 0.5f), alpha);
    for (size_t j = 0; j < s.size(); ++j) smoothed.push_back(activation[j] / s[j]);
    std::sort(smoothed.begin(), smoothed.end());
    const double spread = double(smoothed.back()) / double(smoothed[25]);
    EXPECT_LT(spread, last) << alpha;
    last = spread;
  }
  EXPECT_NEAR(last, 1.0, 1e-5);
}

TEST_F(ScaleSearch, SmoothingAtTheEdges) {
  const std::vector<float> activation = {0.0f, 4.0f, 1e-9f, 2.0f}, weight = {3.0f, 0.0f, 1e-9f, 0.5f};
  const std::vector<float> scale = smooth_scale(activation, weight, 0.5);
  EXPECT_EQ(scale[0], 1.0f) << "no input";
  EXPECT_EQ(scale[1], 4.0f) << "no weights";
  EXPECT_NEAR(scale[2], 1.0f, 1e-5f) << "both at the floor";
  EXPECT_NEAR(scale[3], 2.0f, 1e-6f);
  const Tensor a = test::random_weight(5, 4, 1), b = test::random_weight(3, 4, 2);
  const std::vector<Tensor> both = {a, b};
  const std::vector<float> largest = column_max(both);
  for (int64_t j = 0; j < 4; ++j) {
    float want = 0.0f;
    for (int64_t r = 0; r < 5; ++r) want = std::max(want, std::abs(a.data<float>()[r * 4 + j]));
    for (int64_t r = 0; r < 3; ++r) want = std::max(want, std::abs(b.data<float>()[r * 4 + j]));
    EXPECT_EQ(largest[size_t(j)], want);
  }
}

TEST_F(ScaleSearch, SearchedAlphaHelpsWhereAChannelIsLoud) {
  const int64_t in = 64, tokens = 1000;
  const Tensor moment = test::times(loud_moment(in, 7, 60.0f), float(tokens));
  std::vector<float> activation;
  for (const float mean : abs_mean_of(moment)) activation.push_back(5.0f * mean / std::sqrt(float(tokens)));
  const std::vector<Tensor> weights = {test::random_weight(16, in, 3), test::random_weight(8, in, 4)};
  const std::vector<QuantScheme> schemes(2, checked(QuantScheme::parse("int8")));
  const SmoothChoice choice =
      checked(search_smooth_alpha(weights, schemes, activation, column_max(weights), moment, tokens));
  EXPECT_LT(choice.loss_ratio, 0.5);
  EXPECT_GE(choice.alpha, 0.3);
  EXPECT_LE(choice.alpha, 0.96);
}

}  // namespace
}  // namespace pare
