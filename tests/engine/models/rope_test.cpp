// Rotary frequencies against values worked out by hand from the published formulas.
#include "engine/models/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "tests/support/backends.h"
#include "tests/support/walk.h"

namespace pare {
namespace {

constexpr int64_t kDim = 8;  // four pairs: base^-0, base^-1/4, base^-1/2, base^-3/4
constexpr int64_t kMax = 64;
constexpr double kEps = 2e-7;

RopeConfig rope_of(RopeConfig::Kind kind) {
  RopeConfig rope;
  rope.kind = kind;
  rope.theta = 10000.0;
  return rope;
}

void expect_frequencies(const RotaryFrequencies& got, const std::vector<double>& want) {
  ASSERT_EQ(got.inverse.size(), want.size());
  for (size_t k = 0; k < want.size(); ++k) EXPECT_NEAR(got.inverse[k] / want[k], 1.0, kEps) << "pair " << k;
}

TEST(Rope, StandardIsPowersOfTheBase) {
  const auto got = rotary_frequencies(rope_of(RopeConfig::Kind::standard), kDim, kMax, 10);
  expect_frequencies(got, {1.0, 0.1, 0.01, 0.001});
  EXPECT_EQ(got.attention_factor, 1.0f);
}

TEST(Rope, LinearDividesByTheFactor) {
  RopeConfig rope = rope_of(RopeConfig::Kind::linear);
  rope.factor = 4.0;
  expect_frequencies(rotary_frequencies(rope, kDim, kMax, 10), {0.25, 0.025, 0.0025, 0.00025});
}

TEST(Rope, DynamicGrowsTheBaseBeyondTheLimitOnly) {
  RopeConfig rope = rope_of(RopeConfig::Kind::dynamic);
  rope.factor = 2.0;
  expect_frequencies(rotary_frequencies(rope, kDim, kMax, kMax), {1.0, 0.1, 0.01, 0.001});
  // L = 128, M = 64: base' = 10000 * (2 * 2 - 1)^(8/6)
  const double base = 10000.0 * std::pow(3.0, 8.0 / 6.0);
  expect_frequencies(rotary_frequencies(rope, kDim, kMax, 128),
                     {1.0, std::pow(base, -0.25), std::pow(base, -0.5), std::pow(base, -0.75)});
}

TEST(Rope, Llama3KeepsShortWavesStretchesLongOnesAndBlends) {
  RopeConfig rope = rope_of(RopeConfig::Kind::llama3);
  rope.factor = 8.0;
  rope.low_frequency_factor = 1.0;
  rope.high_frequency_factor = 4.0;
  rope.original_max_positions = 64;
  // Wavelengths 6.28, 62.8, 628, 6283 against 64/4 = 16 and 64/1 = 64: kept, blended, stretched, stretched.
  const double wave = 2.0 * std::numbers::pi / 0.1;
  const double t = (64.0 / wave - 1.0) / 3.0;
  expect_frequencies(rotary_frequencies(rope, kDim, kMax, 10),
                     {1.0, (1.0 - t) * 0.1 / 8.0 + t * 0.1, 0.01 / 8.0, 0.001 / 8.0});
}

TEST(Rope, YarnRampsBetweenTheCorrections) {
  RopeConfig rope = rope_of(RopeConfig::Kind::yarn);
  rope.factor = 4.0;
  rope.original_max_positions = 64;
  rope.beta_fast = 8.0;
  rope.beta_slow = 1.0;
  // corr(r) = 8 ln(64 / (2 pi r)) / (2 ln 10000): corr(8) = 0.105, corr(1) = 1.008 -> low 0, high 2
  const auto got = rotary_frequencies(rope, kDim, kMax, 10);
  expect_frequencies(got, {1.0, 0.1 * (0.5 + 0.5 / 4.0), 0.01 / 4.0, 0.001 / 4.0});
  EXPECT_FLOAT_EQ(got.attention_factor, float(0.1 * std::log(4.0) + 1.0));
  rope.attention_factor = 0.75;
  EXPECT_EQ(rotary_frequencies(rope, kDim, kMax, 10).attention_factor, 0.75f);
}

TEST(Rope, LongropeChoosesItsFactorsByLength) {
  RopeConfig rope = rope_of(RopeConfig::Kind::longrope);
  rope.original_max_positions = 32;
  rope.factor = 2.0;
  rope.short_factors = {1.0, 1.0, 2.0, 2.0};
  rope.long_factors = {1.0, 4.0, 8.0, 16.0};
  const auto got = rotary_frequencies(rope, kDim, kMax, 32);
  expect_frequencies(got, {1.0, 0.1, 0.005, 0.0005});
  EXPECT_FLOAT_EQ(got.attention_factor, float(std::sqrt(1.0 + std::log(2.0) / std::log(32.0))));
  expect_frequencies(rotary_frequencies(rope, kDim, kMax, 33), {1.0, 0.025, 0.00125, 0.001 / 16.0});
}

TEST(Rope, TablesHoldCosinesAndGrow) {
  RopeConfig rope = rope_of(RopeConfig::Kind::standard);
  rope.partial_factor = 0.5;
  RotaryTable table(rope, 16, 4096, Device::cpu());
  test::checked(table.reserve(3));
  EXPECT_GE(table.cosines().size(0), 3);
  EXPECT_EQ(table.cosines().size(1), 4);
  test::checked(table.reserve(1000));
  ASSERT_GE(table.cosines().size(0), 1000);
  for (const int64_t p : {0, 1, 2, 255, 256, 999}) {
    for (int64_t k = 0; k < 4; ++k) {
      const float angle = float(p) * float(std::pow(10.0, -double(k)));
      EXPECT_NEAR(table.cosines().data<float>()[p * 4 + k], std::cos(angle), 1e-4);
      EXPECT_NEAR(table.sines().data<float>()[p * 4 + k], std::sin(angle), 1e-4);
    }
  }
}

TEST(Rope, DynamicTablesFollowTheLength) {
  RopeConfig rope = rope_of(RopeConfig::Kind::dynamic);
  rope.factor = 2.0;
  RotaryTable table(rope, kDim, kMax, Device::cpu());
  const auto cosine = [&] { return table.cosines().data<float>()[20 * 4 + 1]; };
  test::checked(table.reserve(40));
  EXPECT_NEAR(cosine(), std::cos(2.0), 1e-6);
  test::checked(table.reserve(128));
  EXPECT_NEAR(cosine(), std::cos(20.0 * std::pow(10000.0 * std::pow(3.0, 8.0 / 6.0), -0.25)), 1e-6);
  test::checked(table.reserve(40));  // short again: the plain frequencies
  EXPECT_NEAR(cosine(), std::cos(2.0), 1e-6);
}

}  // namespace
}  // namespace pare
