// Targets as pure numbers: counts, snapping, searches that keep their promise.
#include "prune/structured/targets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "prune/structured/step.h"
#include "tests/support/tiny_model.h"

namespace pare {
namespace {

using test::checked;
using testing::HasSubstr;

constexpr const char* kModel = R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4096, "hidden_size": 576,
  "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
  "max_position_embeddings": 64, "tie_word_embeddings": true})";

struct Planner {
  const Architecture* family;
  ModelConfig config;

  explicit Planner(const char* text = kModel) {
    const Json json = checked(parse_json(text, "test", {.max_bytes = 1 << 20}));
    family = checked(find_architecture(json, "test"));
    config = checked(family->configure(json, "test"));
  }
  Result<ModelShape> plan(const TargetRequest& request) const {
    return plan_shape(*family, config, request, [](int64_t out, int64_t in) -> Result<double> {
      return 1e-9 * double(out * in) + 1e-6;
    });
  }
  int64_t parameters(const ModelShape& shape) const {
    return cost_of(*family, resized(config, shape)).parameters;
  }
};

TEST(Targets, CountsAreExact) {
  EXPECT_EQ(units_removed(0.25, 1536), 384);
  EXPECT_EQ(units_removed(0.1, 30), 3);  // 0.1 is less than a tenth in binary, but a tenth is meant
  EXPECT_EQ(units_removed(0.7, 10), 7);
  EXPECT_EQ(units_removed(0.299999, 10), 2);
  EXPECT_EQ(units_removed(0.0, 10), 0);
  EXPECT_EQ(units_removed(1.0, 10), 10);
}

TEST(Targets, SizesSnapToTheNearestMultiple) {
  EXPECT_EQ(snapped(1152, 1536, 64), 1152);
  EXPECT_EQ(snapped(1150, 1536, 64), 1152);
  EXPECT_EQ(snapped(1184, 1536, 64), 1216);  // the larger of two
  EXPECT_EQ(snapped(1530, 1536, 64), 1536);
  EXPECT_EQ(snapped(10, 1536, 64), 64);
  EXPECT_EQ(snapped(30, 40, 64), 40);
  EXPECT_EQ(snapped(30, 40, 1), 30);
}

TEST(Targets, AShareOfEachStructure) {
  const Planner planner;
  TargetRequest request;
  request.structures = {Structure::layers, Structure::hidden, Structure::heads, Structure::mlp};
  request.sparsity = 0.34;
  const ModelShape shape = checked(planner.plan(request));
  EXPECT_EQ(shape.layers, 20);
  EXPECT_EQ(shape.hidden, 384);
  EXPECT_EQ(shape.kv_heads, 2);
  EXPECT_EQ(shape.heads, 6);
  EXPECT_EQ(shape.head_dim, 64);
  EXPECT_EQ(shape.intermediate, 1024);
  request.head_units = HeadUnits::queries;
  EXPECT_EQ(checked(planner.plan(request)).heads, 6);
  EXPECT_EQ(checked(planner.plan(request)).kv_heads, 3);
  request.sparsity = 0.0;
  EXPECT_EQ(checked(planner.plan(request)), checked(shape_of(planner.config, "test")));
}

TEST(Targets, AShareThatRemovesNothingIsRefused) {
  const Planner planner;
  TargetRequest request;
  request.structures = {Structure::heads};
  request.sparsity = 0.25;
  const auto plan = planner.plan(request);
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().exit, Exit::usage);
  EXPECT_THAT(plan.error().limit, HasSubstr("0.33"));
  request.sparsity = 1.0;
  const auto empty = planner.plan(request);
  ASSERT_FALSE(empty);
  EXPECT_EQ(empty.error().rule, "NU15");
  EXPECT_EQ(empty.error().exit, Exit::numeric);
}

TEST(Targets, ParametersAreReachedAndNotWasted) {
  const Planner planner;
  const int64_t whole = planner.parameters(checked(shape_of(planner.config, "test")));
  for (const double share : {0.9, 0.7, 0.5}) {
    TargetRequest request;
    request.structures = {Structure::hidden, Structure::mlp};
    request.parameters = int64_t(double(whole) * share);
    const ModelShape shape = checked(planner.plan(request));
    EXPECT_LE(planner.parameters(shape), *request.parameters);
    EXPECT_EQ(shape.hidden % 64, 0);
    EXPECT_EQ(shape.intermediate % 64, 0);
    ModelShape larger = shape;
    larger.intermediate += 64;
    EXPECT_GT(planner.parameters(larger), *request.parameters);
  }
  TargetRequest beyond;
  beyond.structures = {Structure::mlp};
  beyond.parameters = 1000;
  ASSERT_FALSE(planner.plan(beyond));
  EXPECT_EQ(planner.plan(beyond).error().exit, Exit::usage);
}

TEST(Targets, LatencyIsReachedByTheTable) {
  const Planner planner;
  const LinearTime time = [](int64_t out, int64_t in) -> Result<double> {
    return 1e-9 * double(out * in) + 1e-6;
  };
  TargetRequest request;
  request.structures = {Structure::layers, Structure::mlp};
  request.latency = 0.6;
  const ModelShape shape = checked(plan_shape(*planner.family, planner.config, request, time));
  const double whole = checked(token_time(*planner.family, planner.config, time));
  EXPECT_LE(checked(token_time(*planner.family, resized(planner.config, shape), time)), 0.6 * whole);
  EXPECT_GT(checked(token_time(*planner.family, resized(planner.config, shape), time)), 0.5 * whole);
}

TEST(Targets, SizesByNumber) {
  const Planner planner;
  TargetRequest request;
  request.intermediate = 1000;  // not a multiple of 64, and meant
  request.heads = 6;
  ModelShape shape = checked(planner.plan(request));
  EXPECT_EQ(shape.intermediate, 1000);
  EXPECT_EQ(shape.kv_heads, 2);
  request.head_units = HeadUnits::queries;
  EXPECT_EQ(checked(planner.plan(request)).kv_heads, 3);
  request.heads = 4;
  request.head_units = HeadUnits::groups;
  request.kv_heads = 2;
  EXPECT_EQ(checked(planner.plan(request)).heads, 4);
  request.kv_heads = 3;
  EXPECT_EQ(planner.plan(request).error().exit, Exit::usage);
  request.kv_heads.reset();
  request.heads = 10;
  EXPECT_EQ(planner.plan(request).error().exit, Exit::usage);
}

TEST(Masks, RoundTripAndRefuse) {
  const std::vector<int64_t> kept = {0, 3, 4, 9};
  EXPECT_EQ(units_of_mask(mask_text(kept, 10), 10), kept);
  EXPECT_FALSE(units_of_mask("zz", 8));
  EXPECT_FALSE(units_of_mask("f", 8));
  EXPECT_FALSE(units_of_mask("ff8", 10));  // a unit beyond the last
}

}  // namespace
}  // namespace pare
