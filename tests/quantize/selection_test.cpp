#include "quantize/selection.h"

#include <gtest/gtest.h>

namespace pare {
namespace {

ModelDescription small_model() {
  ModelDescription model;
  auto add = [&](const char* name, Role role, bool is_linear, Shape shape) {
    TensorSpec spec;
    spec.name = name;
    spec.role = role;
    spec.is_linear = is_linear;
    spec.shape = shape;
    model.tensors.push_back(spec);
  };
  add("model.embed_tokens.weight", Role::embedding, false, {100, 64});
  add("model.layers.0.self_attn.q_proj.weight", Role::query, true, {64, 64});
  add("model.layers.0.mlp.down_proj.weight", Role::down, true, {64, 128});
  add("model.layers.1.mlp.down_proj.weight", Role::down, true, {64, 128});
  add("model.norm.weight", Role::final_norm, false, {64});
  add("lm_head.weight", Role::lm_head, false, {100, 64});
  return model;
}

std::vector<std::string> texts(const Selection& selection) {
  const auto schemes = select_schemes(small_model(), selection);
  EXPECT_TRUE(schemes.has_value());
  std::vector<std::string> out;
  for (const auto& scheme : *schemes) out.push_back(scheme ? scheme->text() : "-");
  return out;
}

Selection int4() {
  Selection selection;
  selection.scheme = QuantScheme::parse("int4-g64").value();
  return selection;
}

TEST(Selection, LinearsOnlyByDefault) {
  EXPECT_EQ(texts(int4()),
            (std::vector<std::string>{"-", "int4-g64-sym", "int4-g64-sym", "int4-g64-sym", "-", "-"}));
}

TEST(Selection, EmbeddingAndHeadOnRequest) {
  Selection selection = int4();
  selection.embedding_scheme = QuantScheme::parse("int8").value();
  selection.head_scheme = QuantScheme::parse("int8-g64").value();
  EXPECT_EQ(texts(selection), (std::vector<std::string>{"int8-ch-sym", "int4-g64-sym", "int4-g64-sym",
                                                        "int4-g64-sym", "-", "int8-g64-sym"}));
}

TEST(Selection, ExcludeWinsOverIncludeAndOverridesOverAll) {
  Selection selection = int4();
  selection.include = {"layers.*.mlp.*"};
  selection.exclude = {"layers.1.mlp.*"};
  EXPECT_EQ(texts(selection), (std::vector<std::string>{"-", "-", "int4-g64-sym", "-", "-", "-"}));
  selection.overrides = {parse_override("layers.*.down_proj=int8").value(),
                         parse_override("layers.0.mlp.down_proj=keep").value()};
  EXPECT_EQ(texts(selection), (std::vector<std::string>{"-", "-", "-", "int8-ch-sym", "-", "-"}));
}

TEST(Selection, PatternsThatMatchNothingAreErrors) {
  Selection selection = int4();
  selection.exclude = {"layers.7.*"};
  EXPECT_EQ(select_schemes(small_model(), selection).error().exit, Exit::usage);
  selection.exclude = {"model.norm"};
  EXPECT_EQ(select_schemes(small_model(), selection).error().rule, "RC09");
}

TEST(Selection, MalformedOverrides) {
  for (const char* text : {"", "=int8", "down_proj", "down_proj=", "down_proj=int99"}) {
    EXPECT_EQ(parse_override(text).error().exit, Exit::usage) << text;
  }
}

}  // namespace
}  // namespace pare
