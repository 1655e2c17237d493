#include "engine/core/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace pare {
namespace {

using Block = std::array<uint32_t, 4>;

// Known answers of the Random123 distribution.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, KeyAndCounterAsDocumented) {
  const Random random(7, RandomPurpose::sampling, 3);
  EXPECT_EQ(random.bits(0x500000004ull, 6), philox4x32({4, 5, 6, 2}, {7, 3}));
  EXPECT_FLOAT_EQ(random.uniform(9), static_cast<float>(random.bits(9)[0] >> 8) / 16777216.0f);
}

TEST(Random, SeedsStreamsAndPurposesDiffer) {
  std::set<Block> seen;
  for (const uint64_t seed : {0ull, 1ull, 1ull << 32, 1ull << 33, 3ull << 40}) {
    for (const uint32_t stream : {0u, 1u, 2u}) {
      for (const auto purpose : {RandomPurpose::test_data, RandomPurpose::sampling}) {
        seen.insert(Random(seed, purpose, stream).bits(0));
      }
    }
  }
  EXPECT_EQ(seen.size(), 30u);
  EXPECT_NE(Random(1, RandomPurpose::sampling, "a").bits(0), Random(1, RandomPurpose::sampling, "b").bits(0));
}

TEST(Random, UniformAndNormalMoments) {
  const Random random(11, RandomPurpose::test_data);
  constexpr int kDraws = 100'000;
  double uniform_sum = 0, normal_sum = 0, normal_squares = 0;
  for (uint64_t i = 0; i < kDraws; ++i) {
    const float u = random.uniform(i);
    ASSERT_GE(u, 0.0f);
    ASSERT_LT(u, 1.0f);
    uniform_sum += u;
    const double n = random.normal(i);
    ASSERT_TRUE(std::isfinite(n));
    normal_sum += n;
    normal_squares += n * n;
  }
  // Five standard errors.
  EXPECT_NEAR(uniform_sum / kDraws, 0.5, 5 * std::sqrt(1.0 / 12 / kDraws));
  EXPECT_NEAR(normal_sum / kDraws, 0.0, 5 / std::sqrt(kDraws));
  EXPECT_NEAR(normal_squares / kDraws, 1.0, 5 * std::sqrt(2.0 / kDraws));
}

TEST(Random, BelowIsInRangeAndUnbiased) {
  const Random random(5, RandomPurpose::shuffling);
  std::array<int, 7> counts{};
  for (uint64_t i = 0; i < 70'000; ++i) ++counts[random.below(7, i)];
  for (const int count : counts) EXPECT_NEAR(count, 10'000, 5 * std::sqrt(70'000.0 * 6 / 49));
  EXPECT_EQ(random.below(1, 3), 0u);
  // Half of all words are rejected here, so the second and later tries are used as well.
  const uint64_t large = (1ull << 63) + 1;
  uint64_t above = 0;
  for (uint64_t i = 0; i < 10'000; ++i) {
    const uint64_t value = random.below(large, i);
    ASSERT_LT(value, large);
    above += value >= large / 2;
  }
  EXPECT_NEAR(static_cast<double>(above), 5'000, 5 * 50);
}

TEST(Random, PermutationHasEveryIndexOnce) {
  const Random random(5, RandomPurpose::shuffling);
  std::vector<uint64_t> order = random.permutation(1000);
  EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
  EXPECT_EQ(order, random.permutation(1000));
  EXPECT_NE(order, random.permutation(1000, 1));
  std::sort(order.begin(), order.end());
  for (uint64_t i = 0; i < 1000; ++i) EXPECT_EQ(order[i], i);
  EXPECT_TRUE(random.permutation(0).empty());
}

}  // namespace
}  // namespace pare
