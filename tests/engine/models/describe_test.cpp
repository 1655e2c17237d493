// What a source must hold: shapes (CF09), heads (CF16), nothing unknown, prefixes, quantized forms; and what
// each family declares about its linears.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "engine/models/architecture.h"
#include "tests/support/tiny_model.h"

namespace pare {
namespace {

using test::checked;
using test::kTinyGpt2;
using test::kTinyLlama;
using test::tiny_model;
using ::testing::HasSubstr;

std::string tied(const char* config) {
  std::string text = config;
  const std::string from = "\"tie_word_embeddings\": false";
  return text.replace(text.find(from), from.size(), "\"tie_word_embeddings\": true");
}

void expect_refused(const WeightSource& source, Exit exit, const char* rule,
                    const std::vector<const char*>& words) {
  const auto description = describe_model(source);
  ASSERT_FALSE(description) << "accepted";
  EXPECT_EQ(description.error().exit, exit);
  EXPECT_EQ(description.error().rule, rule);
  for (const char* word : words) EXPECT_THAT(format_error(description.error()), HasSubstr(word));
}

TEST(Describe, ListsTensorsInExecutionOrder) {
  const auto source = tiny_model(kTinyLlama);
  const ModelDescription model = checked(describe_model(*source));
  EXPECT_EQ(model.tensors.size(), source->tensors().size());
  EXPECT_EQ(model.tensors.front().role, Role::embedding);
  EXPECT_EQ(model.tensors.back().name, "lm_head.weight");
  EXPECT_FALSE(model.tensors.back().is_linear);
  int block = -1;
  for (const TensorSpec& spec : model.tensors) {
    EXPECT_GE(spec.block, block);
    block = spec.block;
    EXPECT_EQ(spec.is_linear, spec.site != Site::none && spec.site != Site::head_in) << spec.name;
  }
  EXPECT_EQ(model.find(Role::down, 1)->name, "model.layers.1.mlp.down_proj.weight");
  EXPECT_EQ(model.find("model.layers.1.mlp.down_proj.weight"), model.find(Role::down, 1));
  EXPECT_EQ(model.find(Role::qkv, 1), nullptr);
  EXPECT_EQ(model.config.stored_dtype, DType::f32);
}

TEST(Describe, LinearsThatShareAnInputShareTheSite) {
  const ModelDescription model = checked(describe_model(*tiny_model(kTinyLlama)));
  for (const Role role : {Role::query, Role::key, Role::value})
    EXPECT_EQ(model.find(role, 0)->site, Site::attention_in);
  EXPECT_EQ(model.find(Role::attention_output, 0)->site, Site::attention_out);
  for (const Role role : {Role::gate, Role::up}) EXPECT_EQ(model.find(role, 0)->site, Site::mlp_in);
  EXPECT_EQ(model.find(Role::down, 0)->site, Site::mlp_out);
  EXPECT_EQ(site_name(Site::mlp_out), "mlp.act");
}

TEST(Describe, FoldPairsNameWhatIsThere) {
  for (const char* config : {kTinyLlama, kTinyGpt2}) {
    const ModelDescription model = checked(describe_model(*tiny_model(config)));
    for (const FoldPair& pair : model.architecture->fold_pairs) {
      EXPECT_NE(model.find(pair.producer, 0), nullptr);
      int consumers = 0;
      for (const TensorSpec& spec : model.tensors) consumers += spec.block == 0 && spec.site == pair.site;
      EXPECT_GT(consumers, 0);
    }
  }
}

TEST(Describe, Gpt2LinearsAreTransposed) {
  const ModelDescription model = checked(describe_model(*tiny_model(kTinyGpt2)));
  const TensorSpec* fused = model.find(Role::qkv, 0);
  ASSERT_NE(fused, nullptr);
  EXPECT_TRUE(fused->transposed);
  EXPECT_EQ(fused->out(), 72);
  EXPECT_EQ(fused->in(), 24);
  EXPECT_EQ(model.find("transformer.h.0.attn.c_attn.bias")->owner, fused->name);
}

TEST(Describe, PrefixMayBeMissing) {
  for (const char* config : {kTinyLlama, kTinyGpt2}) {
    const auto source = tiny_model(config);
    std::vector<std::string> names;
    for (const StoredTensor& stored : source->tensors()) names.push_back(stored.name);
    for (const std::string& name : names)
      if (name.starts_with("model.") || name.starts_with("transformer."))
        source->rename(name, name.substr(name.find('.') + 1));
    EXPECT_EQ(checked(describe_model(*source)).tensors.size(), names.size());
  }
}

TEST(Describe, CF09ShapesDisagree) {
  auto source = tiny_model(kTinyLlama);
  source->add("model.layers.1.mlp.down_proj.weight", test::random_normal({24, 41}, "x", 0, 1));
  expect_refused(*source, Exit::malformed, "CF09",
                 {"intermediate_size", "model.layers.1.mlp.down_proj.weight", "[24, 41]", "[24, 40]"});
  source = tiny_model(kTinyLlama);
  source->add("model.embed_tokens.weight", test::random_normal({41, 24}, "x", 0, 1));
  expect_refused(*source, Exit::malformed, "CF09",
                 {"vocab_size", "model.embed_tokens.weight", "[41, 24]", "[40, 24]"});
  source = tiny_model(kTinyLlama);
  source->add("model.layers.0.self_attn.k_proj.weight", test::random_normal({24}, "x", 0, 1));
  expect_refused(*source, Exit::malformed, "CF09", {"num_key_value_heads", "[24]", "[16, 24]"});
  source = tiny_model(kTinyGpt2);
  source->add("transformer.h.0.mlp.c_fc.weight", test::random_normal({96, 24}, "x", 0, 1));
  expect_refused(*source, Exit::malformed, "CF09", {"n_inner", "n_embd", "[96, 24]", "[24, 96]"});
  source = tiny_model(kTinyGpt2);
  source->add("transformer.h.0.mlp.c_fc.bias", test::random_normal({95}, "x", 0, 1));
  expect_refused(*source, Exit::malformed, "CF09", {"n_inner", "c_fc.bias", "[95]", "[96]"});
}

TEST(Describe, MissingAndUnexpectedTensors) {
  auto source = tiny_model(kTinyLlama);
  source->remove("model.layers.2.input_layernorm.weight");
  expect_refused(*source, Exit::malformed, "CF09", {"model.layers.2.input_layernorm.weight", "missing"});
  source = tiny_model(kTinyLlama);
  source->remove("model.embed_tokens.weight");
  expect_refused(*source, Exit::malformed, "CF09", {"model.embed_tokens.weight", "missing"});
  source = tiny_model(kTinyLlama);
  for (int i = 0; i < 10; ++i)
    source->add("model.layers.0.extra" + std::to_string(i), test::random_normal({3}, "x", 0, 1));
  expect_refused(*source, Exit::malformed, "CF09",
                 {"model.layers.0.extra0", "and 2 more", "LlamaForCausalLM"});
}

TEST(Describe, OldBuffersAreIgnored) {
  auto source = tiny_model(kTinyLlama);
  source->add("model.layers.0.self_attn.rotary_emb.inv_freq", test::random_normal({4}, "x", 0, 1));
  EXPECT_EQ(checked(describe_model(*source)).tensors.size() + 1, source->tensors().size());
  source = tiny_model(kTinyGpt2);
  source->add("transformer.h.0.attn.bias", test::random_normal({1, 1, 32, 32}, "x", 0, 1));
  source->add("transformer.h.1.attn.masked_bias", test::random_normal({1}, "x", 0, 1));
  EXPECT_EQ(checked(describe_model(*source)).tensors.size() + 2, source->tensors().size());
}

TEST(Describe, CF16Heads) {
  auto source = tiny_model(kTinyLlama);
  source->remove("lm_head.weight");
  expect_refused(*source, Exit::malformed, "CF16", {"tie_word_embeddings", "lm_head.weight"});
  // tied, and the stored head differs
  source = tiny_model(kTinyLlama);
  source->set_config(tied(kTinyLlama));
  expect_refused(*source, Exit::malformed, "CF16", {"tie_word_embeddings", "lm_head.weight", "embed_tokens"});
  // tied, and the stored head is a copy: not needed
  source->add("lm_head.weight", source->dense("model.embed_tokens.weight"));
  const ModelDescription model = checked(describe_model(*source));
  EXPECT_EQ(model.find(Role::lm_head, 3), nullptr);
  source->remove("lm_head.weight");
  EXPECT_TRUE(describe_model(*source));
}

TEST(Describe, CF12ForeignQuantization) {
  auto source = tiny_model(kTinyLlama);
  source->mutable_config()["quantization_config"] =
      checked(parse_json(R"({"quant_method": "gptq", "bits": 4})", "c", {.max_bytes = 100}));
  expect_refused(*source, Exit::unsupported, "CF12", {"quant_method", "gptq"});
  source->mutable_config()["quantization_config"] = Json();
  EXPECT_TRUE(describe_model(*source));
}

TEST(Describe, CF11BuiltInFamilyWithCustomCodeRuns) {
  auto source = tiny_model(kTinyLlama);
  source->mutable_config()["auto_map"] =
      checked(parse_json(R"({"AutoConfig": "c.C"})", "c", {.max_bytes = 100}));
  EXPECT_TRUE(describe_model(*source));
}

TEST(Describe, CF08LayersBeyondTheTensors) {
  auto source = tiny_model(kTinyLlama);
  source->mutable_config()["num_hidden_layers"] = 4096;
  expect_refused(*source, Exit::malformed, "CF09", {"num_hidden_layers", "4096"});
}

TEST(Describe, GenerationConfigAddsStopIds) {
  auto source = tiny_model(kTinyLlama);
  source->add_asset("generation_config.json", R"({"eos_token_id": [2, 5]})");
  EXPECT_EQ(checked(describe_model(*source)).config.eos_ids, (std::vector<int32_t>{2, 5}));
  source->add_asset("generation_config.json", R"({"eos_token_id": 40})");
  expect_refused(*source, Exit::malformed, "CF13", {"memory/generation_config.json", "eos_token_id", "40"});
  source->add_asset("generation_config.json", "{\n \"eos_token_id\": ");
  expect_refused(*source, Exit::malformed, "CF15", {"generation_config.json", "2:"});
}

TEST(Describe, DtypesThatCannotBeComputedWith) {
  auto source = tiny_model(kTinyLlama);
  source->add("model.norm.weight", checked(Tensor::allocate(DType::i32, {24})));
  expect_refused(*source, Exit::unsupported, "CF09", {"model.norm.weight", "I32"});
}

TEST(Describe, QuantizedTensorsHaveLogicalShapes) {
  const QuantScheme scheme = checked(QuantScheme::parse("int8-ch"));
  auto source = tiny_model(kTinyGpt2);
  source->add("transformer.h.0.mlp.c_fc.weight", checked(QuantizedTensor::allocate(scheme, 96, 24)),
              /*transposed=*/true);
  EXPECT_TRUE(describe_model(*source));
  source->add("transformer.h.0.mlp.c_fc.weight", checked(QuantizedTensor::allocate(scheme, 96, 24)),
              /*transposed=*/false);
  expect_refused(*source, Exit::malformed, "CF09", {"c_fc.weight", "transposed"});
  source->add("transformer.h.0.mlp.c_fc.weight", checked(QuantizedTensor::allocate(scheme, 24, 96)),
              /*transposed=*/true);
  expect_refused(*source, Exit::malformed, "CF09", {"[24, 96]", "[96, 24]"});
  source = tiny_model(kTinyLlama);
  source->add("model.norm.weight", checked(QuantizedTensor::allocate(scheme, 1, 24)), false);
  expect_refused(*source, Exit::malformed, "CF09", {"model.norm.weight", "matrices"});
}

TEST(Registry, EnabledFamiliesAreComplete) {
  std::set<std::string_view> names;
  for (const Architecture& family : architectures()) {
    EXPECT_TRUE(names.insert(family.name).second) << family.name;
    if (!family.is_enabled) continue;
    EXPECT_NE(family.configure, nullptr);
    EXPECT_NE(family.describe, nullptr);
    EXPECT_FALSE(family.prefixes.empty());
    EXPECT_FALSE(family.fold_pairs.empty());
  }
  for (const char* name : {"GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Phi3ForCausalLM",
                           "GPTNeoXForCausalLM", "OPTForCausalLM", "BertForMaskedLM", "MixtralForCausalLM",
                           "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM", "LlamaForCausalLM"})
    EXPECT_TRUE(names.contains(name)) << name;
}

}  // namespace
}  // namespace pare
