// Measured speed: what is made of given samples, and in which order the models take their turns. The clock of
// these tests is a script; none looks at the machine's.
#include "evaluate/generation_speed.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "engine/models/model.h"
#include "tests/support/backends.h"
#include "tests/support/tiny_model.h"

namespace pare::test {
namespace {

using testing::HasSubstr;

TEST(Rates, MedianAndQuartilesOfGivenSeconds) {
  // 100 tokens in 1, 2, 4, 5 and 10 seconds: 100, 50, 25, 20, 10 tokens per second.
  const double seconds[] = {2.0, 10.0, 1.0, 5.0, 4.0};
  const Rate rate = rate_of(seconds, 100);
  EXPECT_DOUBLE_EQ(rate.median, 25.0);
  EXPECT_DOUBLE_EQ(rate.lower_quartile, 20.0);
  EXPECT_DOUBLE_EQ(rate.upper_quartile, 50.0);
  EXPECT_EQ(rate.repetitions, 5);
  // Between two samples: the middle, and a quarter of the way from either end.
  const double two[] = {1.0, 0.5};
  EXPECT_DOUBLE_EQ(rate_of(two, 4).median, 6.0);
  EXPECT_DOUBLE_EQ(rate_of(two, 4).lower_quartile, 5.0);
  const double zero[] = {0.0};  // shorter than the clock can tell
  EXPECT_TRUE(std::isfinite(rate_of(zero, 4).median));
}

Rate rate(double median, double lower, double upper) {
  return {.median = median, .lower_quartile = lower, .upper_quartile = upper, .repetitions = 9};
}

TEST(Rates, WhatIsOutsideTheNoise) {
  const Rate base = rate(100, 95, 105);
  EXPECT_TRUE(is_outside_noise(base, rate(150, 140, 160)));
  EXPECT_TRUE(is_outside_noise(base, rate(80, 78, 82)));
  EXPECT_FALSE(is_outside_noise(base, rate(110, 104, 120)));  // quartiles overlap
  EXPECT_FALSE(is_outside_noise(base, rate(92, 90, 96)));
  EXPECT_FALSE(is_outside_noise(base, base));
  // Apart, but by no more than memory layout can make.
  EXPECT_FALSE(is_outside_noise(rate(100, 99.9, 100.1), rate(101, 100.9, 101.1)));
  EXPECT_FALSE(is_outside_noise(rate(0, 0, 0), rate(0, 0, 0)));
}

TEST(Rates, Words) {
  EXPECT_EQ(rate_change_text(rate(41.2, 41, 42), rate(57.94, 57, 59)), "41.2 -> 57.9 tokens/s (1.41x)");
  EXPECT_EQ(rate_change_text(rate(310, 305, 315), rate(312.4, 306, 318)),
            "310 -> 312 tokens/s (no speed-up on this device)");
  EXPECT_EQ(rate_change_text(rate(100, 99, 101), rate(80, 79, 81)),
            "100 -> 80 tokens/s (0.80x, no speed-up on this device: slower)");
}

SpeedComparison example() {
  SpeedComparison speed{
      .device = "cpu", .prompt_tokens = 128, .decode_tokens = 32, .original = {}, .compressed = {}};
  speed.original = {.decode = rate(41.2, 41, 42), .prefill = rate(310, 305, 315), .loaded_bytes = 270000000};
  speed.compressed = {
      .decode = rate(57.94, 57, 59), .prefill = rate(312, 306, 318), .loaded_bytes = 163200000};
  return speed;
}

TEST(SpeedReport, OneLine) {
  EXPECT_EQ(
      speed_line(example()),
      "one token 41.2 -> 57.9 tokens/s (1.41x), prompt of 128 tokens 310 -> 312 tokens/s (no speed-up on "
      "this device), weights in memory 270.0 MB -> 163.2 MB");
}

TEST(SpeedReport, JsonThereAndBack) {
  const Json json = to_json(example());
  EXPECT_TRUE(json.find("decode")->find("outside_noise")->as_bool());
  EXPECT_FALSE(json.find("prefill")->find("outside_noise")->as_bool());
  EXPECT_NEAR(json.find("decode")->find("ratio")->as_double(), 57.94 / 41.2, 1e-12);
  EXPECT_EQ(to_json(checked(speed_from_json(json, "x", "speed."))).dump(), json.dump());

  struct Case {
    const char* rule;
    const char* where;
    void (*damage)(Json& json);
  };
  static const Case cases[] = {
      {"RP02", "speed.device", [](Json& j) { j.erase("device"); }},
      {"RP03", "speed.original", [](Json& j) { j["original"] = 3; }},
      {"RP02", "speed.compressed.prefill", [](Json& j) { j["compressed"].erase("prefill"); }},
      {"RP04", "speed.original.decode.median", [](Json& j) { j["original"]["decode"]["median"] = -1.0; }},
      {"RP04", "speed.original.decode.median", [](Json& j) { j["original"]["decode"]["median"] = Json(); }},
      {"RP04", "speed.compressed.loaded_bytes", [](Json& j) { j["compressed"]["loaded_bytes"] = -5; }},
  };
  for (const Case& bad : cases) {
    Json copy = json;
    bad.damage(copy);
    const auto result = speed_from_json(copy, "x", "speed.");
    ASSERT_FALSE(result.has_value()) << bad.where;
    EXPECT_EQ(result.error().rule, bad.rule) << bad.where;
    EXPECT_EQ(result.error().where, bad.where);
    EXPECT_EQ(result.error().exit, Exit::malformed);
  }
}

class SpeedTest : public testing::Test {
 protected:
  void SetUp() override {
    options_.device = use(arithmetics_of_this_host().back());
    options_.repetitions = 5;
    options_.seconds = [this] { return now_ += 1.0; };
    options_.max_seconds = 1e9;
  }
  std::shared_ptr<MemorySource> original_ = tiny_model(kTinyLlama);
  double now_ = 0.0;
  SpeedOptions options_;
};

std::shared_ptr<MemorySource> quantized() {
  auto source = tiny_model(kTinyLlama);
  for (const TensorSpec& spec : checked(describe_model(*source)).tensors)
    if (spec.is_linear) source->add(spec.name, int8_of(source->dense(spec.name)), false);
  return source;
}

// The k-th interval between two looks at the clock is what the k-th measured piece took.
TEST_F(SpeedTest, ModelsTakeTurns) {
  // One token of each to warm up; then decode A, decode B, prompt A, prompt B, and again.
  std::vector<double> intervals = {0.5, 0.5};
  for (int turn = 0; turn < 5; ++turn) intervals.insert(intervals.end(), {2.0, 1.0, 3.0, 6.0});
  size_t looks = 0;
  options_.seconds = [&] {
    // The first look starts the whole; then each piece has two, its beginning and its end.
    if (looks > 0 && looks % 2 == 0) now_ += intervals.at(looks / 2 - 1);
    ++looks;
    return now_;
  };
  const auto compressed = quantized();
  const SpeedComparison speed = checked(compare_speed(original_, compressed, options_));
  EXPECT_EQ(looks, 1 + 2 * intervals.size());
  EXPECT_EQ(speed.prompt_tokens, 64);  // the model's context; 128 were asked for
  EXPECT_EQ(speed.decode_tokens, 32);
  EXPECT_DOUBLE_EQ(speed.original.decode.median, 16.0);
  EXPECT_DOUBLE_EQ(speed.compressed.decode.median, 32.0);
  EXPECT_DOUBLE_EQ(speed.original.prefill.median, 64.0 / 3.0);
  EXPECT_DOUBLE_EQ(speed.compressed.prefill.median, 64.0 / 6.0);
  EXPECT_DOUBLE_EQ(speed_ratio(speed.original.decode, speed.compressed.decode), 2.0);
  EXPECT_EQ(speed.original.decode.repetitions, 5);
  EXPECT_EQ(speed.device, "cpu");

  const auto model = checked(Model::open(compressed, options_.device));
  checked(model->load_all());
  EXPECT_EQ(speed.compressed.loaded_bytes, model->loaded_bytes());
  EXPECT_LT(speed.compressed.loaded_bytes, speed.original.loaded_bytes);
}

TEST_F(SpeedTest, OneModel) {
  const ModelSpeed speed = checked(measure_speed(original_, options_));
  EXPECT_DOUBLE_EQ(speed.decode.median, 32.0);  // every piece takes a second
  EXPECT_DOUBLE_EQ(speed.prefill.median, 64.0);
  EXPECT_DOUBLE_EQ(speed.prefill.lower_quartile, speed.prefill.upper_quartile);
  EXPECT_GT(speed.loaded_bytes, 0u);
}

TEST_F(SpeedTest, EndsWhenTheTimeIsUp) {
  options_.repetitions = 50;
  options_.max_seconds = 100.0;  // each look at the clock takes one second
  const ModelSpeed speed = checked(measure_speed(original_, options_));
  EXPECT_GT(speed.decode.repetitions, 5);
  EXPECT_LT(speed.decode.repetitions, 50);
  options_.max_seconds = 1e-3;
  EXPECT_EQ(checked(measure_speed(original_, options_)).decode.repetitions, 5);
  // And slow models decode fewer tokens per repetition: here four in one second.
  EXPECT_DOUBLE_EQ(checked(measure_speed(original_, options_)).decode.median, 4.0);
}

TEST_F(SpeedTest, ShortContexts) {
  std::string config = kTinyLlama;
  const std::string key = "\"max_position_embeddings\": ";
  config.replace(config.find(key) + key.size(), 2, "5");
  const ModelSpeed speed = checked(measure_speed(tiny_model(config), options_));
  EXPECT_DOUBLE_EQ(speed.prefill.median, 5.0);
  EXPECT_DOUBLE_EQ(speed.decode.median, 2.0);  // behind two, one of them not counted
  config.replace(config.find(key) + key.size(), 1, "3");
  const auto refused = measure_speed(tiny_model(config), options_);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().exit, Exit::unsupported);
}

TEST_F(SpeedTest, MemoryIsCheckedBeforeLoading) {
  const auto compressed = quantized();
  for (const auto& source : {original_, compressed}) {
    const uint64_t bytes = checked(speed_memory(source, options_));
    const ModelSpeed speed = checked(measure_speed(source, options_));
    EXPECT_GE(bytes, speed.loaded_bytes);
  }
  options_.memory_limit =
      checked(speed_memory(original_, options_)) + checked(speed_memory(compressed, options_));
  EXPECT_TRUE(compare_speed(original_, compressed, options_).has_value());
  --options_.memory_limit;
  const auto refused = compare_speed(original_, compressed, options_);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().exit, Exit::resource);
  EXPECT_EQ(refused.error().rule, "CL05");
}

TEST_F(SpeedTest, StopsBetweenRepetitions) {
  int calls = 0;
  options_.advance = [&]() -> Status {
    if (++calls < 4) return {};
    return Error{.exit = Exit::interrupted, .what = "stop"};
  };
  const auto stopped = compare_speed(original_, original_, options_);
  ASSERT_FALSE(stopped.has_value());
  EXPECT_EQ(stopped.error().exit, Exit::interrupted);
  EXPECT_EQ(calls, 4);
}

TEST_F(SpeedTest, VocabulariesMayDiffer) {
  std::string config = kTinyLlama;
  const std::string key = "\"vocab_size\": ";
  config.replace(config.find(key) + key.size(), 2, "7");
  EXPECT_TRUE(compare_speed(original_, tiny_model(config), options_).has_value());
}

}  // namespace
}  // namespace pare::test
