#include "distill/stream_mixer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

namespace pare {
namespace {

// The definition: one draw after the other, the smallest (2k + 1) / w first. Weights small enough for
// doubles.
std::vector<int32_t> drawn_one_by_one(const std::vector<uint64_t>& weights, int64_t samples) {
  std::vector<int64_t> counts(weights.size(), 0);
  std::vector<int32_t> order;
  for (int64_t i = 0; i < samples; ++i) {
    size_t best = 0;
    for (size_t s = 1; s < weights.size(); ++s)
      if (uint64_t(2 * counts[s] + 1) * weights[best] < uint64_t(2 * counts[best] + 1) * weights[s]) best = s;
    ++counts[best];
    order.push_back(int32_t(best));
  }
  return order;
}

TEST(StreamMixer, AnySampleIsWhatOneByOneGives) {
  for (const std::vector<uint64_t>& weights :
       std::vector<std::vector<uint64_t>>{{1}, {1, 1}, {3, 1}, {1, 1000}, {5, 3, 2}, {7, 7, 7, 1, 90}}) {
    const StreamMixer mixer(weights);
    const std::vector<int32_t> expected = drawn_one_by_one(weights, 2000);
    std::vector<int64_t> seen(weights.size(), 0);
    for (int64_t i = 0; i < 2000; ++i) {
      const StreamMixer::Draw draw = mixer.at(i);
      ASSERT_EQ(draw.stream, expected[size_t(i)]) << i;
      ASSERT_EQ(draw.number, seen[size_t(draw.stream)]++) << i;
    }
    EXPECT_EQ(mixer.counts(2000), seen);
  }
}

TEST(StreamMixer, WholeCyclesGiveEachItsWeight) {
  const StreamMixer mixer({5, 3, 2});
  EXPECT_EQ(mixer.counts(10), (std::vector<int64_t>{5, 3, 2}));
  EXPECT_EQ(mixer.counts(70), (std::vector<int64_t>{35, 21, 14}));
}

TEST(StreamMixer, SharesHoldFarOut) {
  const std::vector<uint64_t> weights{1ull << 32, 1, 3'000'000'001ull};
  const StreamMixer mixer(weights);
  const double total = double(weights[0]) + 1.0 + double(weights[2]);
  for (const int64_t samples : {int64_t(1) << 47, (int64_t(1) << 40) + 12345, int64_t(999'999'937)}) {
    const std::vector<int64_t> counts = mixer.counts(samples);
    EXPECT_EQ(counts[0] + counts[1] + counts[2], samples);
    for (size_t s = 0; s < 3; ++s)
      EXPECT_NEAR(double(counts[s]), double(samples) * double(weights[s]) / total, 1.5) << s;
    const StreamMixer::Draw draw = mixer.at(samples);
    std::vector<int64_t> next = counts;
    EXPECT_EQ(draw.number, next[size_t(draw.stream)]++);
    EXPECT_EQ(mixer.counts(samples + 1), next);
  }
}

}  // namespace
}  // namespace pare
