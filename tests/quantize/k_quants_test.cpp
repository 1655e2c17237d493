// The search for scales of blocks: never worse than plain rounding, exact where the grid can be, importance
// heard.
#include "quantize/k_quants.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "engine/tensor/float_formats.h"

namespace pare::test {
namespace {

constexpr BlockScheme kQ4{4, 32, 32, false, 0, false}, kQ41{4, 32, 32, true, 0, false},
    kQ8{8, 32, 32, false, 0, false}, kQ2K{2, 256, 16, true, 4, false}, kQ3K{3, 256, 16, false, 6, true},
    kQ4K{4, 256, 32, true, 6, false}, kQ5K{5, 256, 32, true, 6, false}, kQ6K{6, 256, 16, false, 8, true};

std::vector<float> gaussian(int count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

double squared_error(const BlockScheme& scheme, const std::vector<float>& values,
                     const std::vector<float>& weights, const BlockCodes& block) {
  std::vector<float> restored(values.size());
  decode_block(scheme, block, restored.data());
  double error = 0.0;
  for (size_t i = 0; i < values.size(); ++i)
    error += double(weights[i]) * (double(restored[i]) - values[i]) * (double(restored[i]) - values[i]);
  return error;
}

// d = largest / -8 and truncation, as the format's reference states it.
TEST(KQuants, PlainRoundingIsTheReference) {
  std::vector<float> values(32, 0.0f);
  values[0] = 0.8f;
  values[1] = -0.4f;
  values[2] = 0.26f;
  BlockCodes block;
  ASSERT_EQ(quantize_block(kQ4, values, {}, 0.0f, {.search = false}, block), BlockFault::none);
  EXPECT_EQ(block.d, float_to_f16(-0.1f));
  EXPECT_EQ(block.codes[0], 0);   // 0.8 / -0.1 + 8.5 = 0.5
  EXPECT_EQ(block.codes[1], 12);  // 4 + 8.5
  EXPECT_EQ(block.codes[2], 5);   // -2.6 + 8.5 = 5.9
  EXPECT_EQ(block.codes[3], 8);
}

TEST(KQuants, SearchIsNeverWorseThanPlainRounding) {
  for (const BlockScheme& scheme : {kQ4, kQ41}) {
    for (unsigned seed = 0; seed < 200; ++seed) {
      const auto values = gaussian(32, seed);
      std::vector<float> weights(32);
      block_error_weights(scheme, values, {}, 0.0f, weights.data());
      BlockCodes plain, searched;
      quantize_block(scheme, values, {}, 0.0f, {.search = false}, plain);
      quantize_block(scheme, values, {}, 0.0f, {}, searched);
      EXPECT_LE(squared_error(scheme, values, weights, searched),
                squared_error(scheme, values, weights, plain));
    }
  }
}

// More bits, less error; and within half a step of what a grid over the range can do.
TEST(KQuants, ErrorsFallWithTheBits) {
  double last = 1.0;
  for (const BlockScheme& scheme : {kQ2K, kQ3K, kQ4K, kQ5K, kQ6K}) {
    double error = 0.0, power = 0.0;
    for (unsigned seed = 0; seed < 20; ++seed) {
      const auto values = gaussian(256, seed);
      BlockCodes block;
      ASSERT_EQ(quantize_block(scheme, values, {}, 0.0f, {}, block), BlockFault::none);
      error += squared_error(scheme, values, std::vector<float>(256, 1.0f), block);
      for (const float value : values) power += double(value) * value;
    }
    const double relative = std::sqrt(error / power);
    EXPECT_LT(relative, 0.75 * last) << scheme.bits;
    last = relative;
  }
  EXPECT_LT(last, 0.03);  // six bits
}

TEST(KQuants, ZerosStayZeros) {
  for (const BlockScheme& scheme : {kQ4, kQ41, kQ8, kQ2K, kQ3K, kQ4K, kQ5K, kQ6K}) {
    const std::vector<float> values(size_t(scheme.block), 0.0f);
    BlockCodes block;
    ASSERT_EQ(quantize_block(scheme, values, {}, 0.0f, {}, block), BlockFault::none);
    EXPECT_EQ(squared_error(scheme, values, std::vector<float>(values.size(), 1.0f), block), 0.0)
        << scheme.bits;
  }
}

TEST(KQuants, ImportantColumnsComeOutBetter) {
  double with = 0.0, without = 0.0;
  std::vector<float> importance(256, 1.0f);
  for (size_t i = 0; i < 256; i += 8) importance[i] = 1000.0f;
  for (unsigned seed = 0; seed < 30; ++seed) {
    const auto values = gaussian(256, seed);
    BlockCodes plain, weighted;
    quantize_block(kQ2K, values, {}, 0.0f, {}, plain);
    quantize_block(kQ2K, values, importance, 0.0f, {}, weighted);
    with += squared_error(kQ2K, values, importance, weighted);
    without += squared_error(kQ2K, values, importance, plain);
  }
  EXPECT_LT(with, 0.8 * without);
}

TEST(KQuants, ScalesBeyondHalfPrecisionAreAFault) {
  std::vector<float> values(32, 1e9f);
  values[0] = -1e9f;
  BlockCodes block;
  EXPECT_EQ(quantize_block(kQ4, values, {}, 0.0f, {}, block), BlockFault::too_large);
}

}  // namespace
}  // namespace pare::test
