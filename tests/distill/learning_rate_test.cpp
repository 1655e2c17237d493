#include "distill/learning_rate.h"

#include <gtest/gtest.h>

#include <cmath>

namespace pare {
namespace {

LearningRateSchedule schedule(LearningRateShape shape) {
  return {.shape = shape, .peak = 8e-4, .minimum = 8e-5, .warmup = 10, .steps = 110, .decay_steps = 25};
}

TEST(LearningRate, WarmsUpInEqualStepsWhateverTheShape) {
  for (const char* name : {"constant", "linear", "cosine", "wsd"}) {
    const LearningRateSchedule s = schedule(*learning_rate_shape_from_name(name));
    for (int64_t t = 0; t < 10; ++t) EXPECT_DOUBLE_EQ(s.at(t), 8e-4 * double(t + 1) / 10.0) << name;
    EXPECT_DOUBLE_EQ(s.at(10), 8e-4) << name;
  }
}

TEST(LearningRate, ValuesOfTheShapes) {
  // Half way, at a quarter and at the end; by hand from the formulas of the header.
  const LearningRateSchedule linear = schedule(LearningRateShape::linear);
  EXPECT_DOUBLE_EQ(linear.at(60), 4.4e-4);
  EXPECT_DOUBLE_EQ(linear.at(35), 6.2e-4);
  EXPECT_DOUBLE_EQ(linear.at(110), 8e-5);
  const LearningRateSchedule cosine = schedule(LearningRateShape::cosine);
  EXPECT_DOUBLE_EQ(cosine.at(60), 4.4e-4);
  EXPECT_NEAR(cosine.at(35), 8e-5 + 3.6e-4 * (1.0 + std::sqrt(0.5)), 1e-18);
  EXPECT_NEAR(cosine.at(110), 8e-5, 1e-18);
  const LearningRateSchedule wsd = schedule(LearningRateShape::warmup_stable_decay);
  EXPECT_DOUBLE_EQ(wsd.at(84), 8e-4);
  EXPECT_DOUBLE_EQ(wsd.at(85), 8e-4);
  EXPECT_NEAR(wsd.at(94), 8e-5 + 7.2e-4 * (1.0 - 0.6), 1e-18);  // sqrt(9 / 25)
  EXPECT_NEAR(wsd.at(110), 8e-5, 1e-18);
  EXPECT_DOUBLE_EQ(schedule(LearningRateShape::constant).at(109), 8e-4);
}

TEST(LearningRate, NeverRisesBehindTheWarmUpAndStaysAtTheEnd) {
  for (const char* name : {"constant", "linear", "cosine", "wsd"}) {
    const LearningRateSchedule s = schedule(*learning_rate_shape_from_name(name));
    for (int64_t t = 10; t < 130; ++t) EXPECT_LE(s.at(t + 1), s.at(t)) << name << " " << t;
    EXPECT_DOUBLE_EQ(s.at(1'000'000), s.at(110)) << name;
  }
}

TEST(LearningRate, EdgesAreFinite) {
  for (const char* name : {"constant", "linear", "cosine", "wsd"}) {
    LearningRateSchedule s{.shape = *learning_rate_shape_from_name(name), .peak = 1e-3};
    EXPECT_DOUBLE_EQ(s.at(0), 1e-3) << name;
    s.warmup = 1;  // all of it
    ASSERT_TRUE(s.validate());
    EXPECT_DOUBLE_EQ(s.at(0), 1e-3) << name;
    EXPECT_DOUBLE_EQ(s.at(5), 1e-3) << name;
  }
}

TEST(LearningRate, RefusesWhatIsNoSchedule) {
  const auto option = [](auto change) {
    LearningRateSchedule s = schedule(LearningRateShape::cosine);
    change(s);
    const Status status = s.validate();
    return status ? std::string("accepted") : status.error().path;
  };
  EXPECT_EQ(option([](auto&) {}), "accepted");
  EXPECT_EQ(option([](auto& s) { s.peak = 0.0; }), "--lr");
  EXPECT_EQ(option([](auto& s) { s.peak = std::nan(""); }), "--lr");
  EXPECT_EQ(option([](auto& s) { s.minimum = 1.0; }), "--lr-min");
  EXPECT_EQ(option([](auto& s) { s.minimum = std::nan(""); }), "--lr-min");
  EXPECT_EQ(option([](auto& s) { s.steps = 0; }), "--steps");
  EXPECT_EQ(option([](auto& s) { s.warmup = 111; }), "--warmup");
  EXPECT_EQ(option([](auto& s) { s.decay_steps = 101; }), "--lr-decay-steps");
  const auto unknown = learning_rate_shape_from_name("cosin");
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().exit, Exit::usage);
  EXPECT_EQ(unknown.error().limit, "constant, linear, cosine, wsd");
}

}  // namespace
}  // namespace pare
