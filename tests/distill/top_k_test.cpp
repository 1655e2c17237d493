#include "distill/top_k.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "engine/core/random.h"
#include "engine/tensor/float_formats.h"

namespace pare {
namespace {

std::vector<VectorLevel> levels() {
  std::vector<VectorLevel> all;
  for (const VectorLevel level : {VectorLevel::generic, VectorLevel::avx2, VectorLevel::avx512})
    if (level <= host_vector_level()) all.push_back(level);
  return all;
}

float value_of(uint16_t bits, DType type) {
  return type == DType::f16 ? f16_to_float(bits) : bf16_to_float(bits);
}

// The definition, by a full sort and sums in double.
struct Expected {
  std::vector<int32_t> ids;
  std::vector<double> z;  // before rounding
  double tail[2] = {0.0, 0.0};
};
Expected defined(const std::vector<float>& logits, int64_t k, double temperature) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[size_t(a)] > logits[size_t(b)]; });
  const double largest = logits[size_t(order[0])];
  Expected expected;
  expected.ids.assign(order.begin(), order.begin() + k);
  std::sort(expected.ids.begin(), expected.ids.end());
  for (const int32_t id : expected.ids) expected.z.push_back(double(logits[size_t(id)]) - largest);
  for (size_t i = size_t(k); i < order.size(); ++i) {
    const double z = double(logits[size_t(order[i])]) - largest;
    expected.tail[0] += std::exp(z);
    expected.tail[1] += std::exp(z / temperature);
  }
  return expected;
}

void check(const std::vector<float>& logits, int64_t k, float temperature, DType type) {
  const Expected expected = defined(logits, k, double(temperature));
  TopKRow first;
  for (const VectorLevel level : levels()) {
    TopKFinder finder(int64_t(logits.size()), k, temperature, type, level);
    TopKRow row;
    for (int repeat = 0; repeat < 2; ++repeat) ASSERT_TRUE(finder.find(logits.data(), row));
    ASSERT_EQ(row.ids, expected.ids);
    double sum[2] = {expected.tail[0], expected.tail[1]};
    const double unit = type == DType::f16 ? 0x1p-11 : 0x1p-8;  // half an ulp, and the subnormals of f16
    for (size_t i = 0; i < row.ids.size(); ++i) {
      const double z = value_of(row.logits[i], type);
      EXPECT_NEAR(z, std::max(expected.z[i], double(kLeastLogit)),
                  unit * std::abs(expected.z[i]) + 0x1p-24 + 1e-6);
      sum[0] += std::exp(z);
      sum[1] += std::exp(z / double(temperature));
    }
    EXPECT_NEAR(row.log_sum, std::log(sum[0]), 1e-6 * (1.0 + std::log(sum[0])));
    EXPECT_NEAR(row.log_sum_at_temperature, std::log(sum[1]), 1e-6 * (1.0 + std::log(sum[1])));
    // All levels give the same bytes.
    if (level == VectorLevel::generic) first = row;
    EXPECT_EQ(row.logits, first.logits);
    EXPECT_EQ(row.log_sum, first.log_sum);
    EXPECT_EQ(row.log_sum_at_temperature, first.log_sum_at_temperature);
  }
}

TEST(TopK, EqualsASortInEveryShape) {
  const Random random(11, RandomPurpose::test_data);
  uint32_t step = 0;
  for (const int64_t vocabulary : {1, 2, 15, 16, 17, 33, 100, 1000, 1024, 5003, 49'152})
    for (const int64_t k : {1, 2, 5, 64, 100}) {
      if (k > vocabulary) continue;
      std::vector<float> logits(static_cast<size_t>(vocabulary));
      ++step;
      for (size_t i = 0; i < logits.size(); ++i) logits[i] = 4.0f * random.normal(i, step) + 3.0f;
      check(logits, k, 2.0f, DType::f16);
      check(logits, k, 1.0f, DType::bf16);
    }
}

TEST(TopK, TiesGoToTheLowerIds) {
  const Random random(12, RandomPurpose::test_data);
  for (const uint64_t different : {1u, 2u, 7u}) {
    std::vector<float> logits(3000);
    for (size_t i = 0; i < logits.size(); ++i) logits[i] = float(random.below(different, i));
    check(logits, 64, 3.0f, DType::f16);
    check(logits, 3000, 3.0f, DType::f16);
  }
  std::vector<float> zeros(100, 0.0f);
  for (size_t i = 0; i < zeros.size(); i += 2) zeros[i] = -0.0f;  // equal to the others
  check(zeros, 7, 1.0f, DType::f16);
}

TEST(TopK, WholeDistributionsAndPeakedOnes) {
  std::vector<float> peaked(2000, -300.0f);
  peaked[1234] = 500.0f;
  check(peaked, 3, 1.0f, DType::f16);
  std::vector<float> steep(2000);
  for (size_t i = 0; i < steep.size(); ++i) steep[i] = float(i) * 0.25f;
  check(steep, 64, 4.0f, DType::bf16);
  check(steep, 64, 0.5f, DType::f16);
}

TEST(TopK, IdsWithoutProbabilityAreAllowedOthersAreNot) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> logits(200, -kInfinity);
  logits[3] = 1.0f;
  logits[190] = 0.0f;
  TopKFinder finder(200, 5, 1.0f, DType::f16);
  TopKRow row;
  ASSERT_TRUE(finder.find(logits.data(), row));
  EXPECT_EQ(row.ids, (std::vector<int32_t>{0, 1, 2, 3, 190}));
  EXPECT_EQ(f16_to_float(row.logits[0]), kLeastLogit);
  EXPECT_NEAR(row.log_sum, std::log1p(std::exp(-1.0)), 1e-7);
  for (const float bad : {kInfinity, std::nanf("")})
    for (const size_t place : {0u, 100u, 199u}) {
      std::vector<float> broken(200, 1.0f);
      broken[place] = bad;
      EXPECT_FALSE(finder.find(broken.data(), row)) << bad << " " << place;
    }
  EXPECT_FALSE(finder.find(std::vector<float>(200, -kInfinity).data(), row));
}

}  // namespace
}  // namespace pare
