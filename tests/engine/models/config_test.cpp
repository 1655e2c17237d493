// config.json: rows CF04 to CF14 of docs/bad-input.md, defaults of each class, both spellings of the rotary
// settings.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/core/limits.h"
#include "engine/models/architecture.h"
#include "engine/models/architectures/config_reader.h"
#include "tests/support/memory_source.h"
#include "tests/support/walk.h"

namespace pare {
namespace {

using ::testing::HasSubstr;

constexpr const char* kLlama = R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama",
  "vocab_size": 256, "hidden_size": 64, "intermediate_size": 192,
  "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
  "bos_token_id": 1, "eos_token_id": 2, "rope_theta": 10000.0})";

Json parsed(const std::string& text) {
  return test::checked(parse_json(text, "m/config.json", {.max_bytes = limits::kConfigBytes}));
}

// The base config with members replaced by those of `changes`; a member "-key" removes the key.
Json with(const char* base, const std::string& changes) {
  Json config = parsed(base);
  const Json edits = parsed(changes);
  for (const auto& [key, value] : edits.members()) {
    if (key.starts_with("-")) {
      config.erase(key.substr(1));
    } else {
      config[key] = value;
    }
  }
  return config;
}

Result<ModelConfig> configure(const Json& config) {
  PARE_TRY(const Architecture* family, find_architecture(config, "m/config.json"));
  return family->configure(config, "m/config.json");
}

struct BadRow {
  const char* name;
  const char* changes;
  const char* rule;
  Exit exit;
  std::vector<const char*> words;  // all in the message
};

class BadConfig : public ::testing::TestWithParam<BadRow> {};

TEST_P(BadConfig, IsRefusedByName) {
  const BadRow& row = GetParam();
  const auto config = configure(with(kLlama, row.changes));
  ASSERT_FALSE(config) << "accepted";
  EXPECT_EQ(config.error().exit, row.exit);
  EXPECT_EQ(config.error().rule, row.rule);
  const std::string line = format_error(config.error());
  EXPECT_THAT(line, HasSubstr("m/config.json"));
  for (const char* word : row.words) EXPECT_THAT(line, HasSubstr(word));
}

constexpr Exit kBad = Exit::malformed, kUnknown = Exit::unsupported;
INSTANTIATE_TEST_SUITE_P(
    Rows, BadConfig,
    ::testing::Values(
        BadRow{"vocab_missing", R"({"-vocab_size": 0})", "CF04", kBad, {"vocab_size"}},
        BadRow{"hidden_missing", R"({"-hidden_size": 0})", "CF04", kBad, {"hidden_size"}},
        BadRow{"layers_missing", R"({"-num_hidden_layers": 0})", "CF04", kBad, {"num_hidden_layers"}},
        BadRow{"heads_missing", R"({"-num_attention_heads": 0})", "CF04", kBad, {"num_attention_heads"}},
        BadRow{
            "names_missing", R"({"-architectures": 0, "-model_type": 0})", "CF04", kBad, {"architectures"}},
        BadRow{"string", R"({"hidden_size": "64"})", "CF05", kBad, {"hidden_size", "string"}},
        BadRow{"fraction", R"({"num_attention_heads": 32.5})", "CF05", kBad, {"num_attention_heads", "32.5"}},
        BadRow{"null_size", R"({"hidden_size": null})", "CF05", kBad, {"hidden_size", "null"}},
        BadRow{"true_size", R"({"vocab_size": true})", "CF05", kBad, {"vocab_size", "boolean"}},
        BadRow{"exponent", R"({"hidden_size": 1e3})", "CF05", kBad, {"hidden_size"}},
        BadRow{"list_flag", R"({"tie_word_embeddings": [1]})", "CF05", kBad, {"tie_word_embeddings"}},
        BadRow{"number_flag", R"({"attention_bias": 1})", "CF05", kBad, {"attention_bias"}},
        BadRow{"number_activation", R"({"hidden_act": 3})", "CF05", kBad, {"hidden_act"}},
        BadRow{"architectures_string",
               R"({"architectures": "LlamaForCausalLM"})",
               "CF05",
               kBad,
               {"architectures"}},
        BadRow{"zero", R"({"hidden_size": 0})", "CF06", kBad, {"hidden_size", "1 to 1048576"}},
        BadRow{"negative", R"({"num_key_value_heads": -2})", "CF06", kBad, {"num_key_value_heads", "-2"}},
        BadRow{"two_31",
               R"({"intermediate_size": 2147483648})",
               "CF06",
               kBad,
               {"intermediate_size", "2147483648"}},
        BadRow{"two_63", R"({"vocab_size": 9223372036854775808})", "CF06", kBad, {"vocab_size"}},
        BadRow{"eps_zero", R"({"rms_norm_eps": 0.0})", "CF06", kBad, {"rms_norm_eps"}},
        BadRow{"eps_negative", R"({"rms_norm_eps": -1e-5})", "CF06", kBad, {"rms_norm_eps"}},
        BadRow{"indivisible",
               R"({"num_attention_heads": 6})",
               "CF07",
               kBad,
               {"hidden_size", "num_attention_heads"}},
        BadRow{"kv_indivisible",
               R"({"num_key_value_heads": 3})",
               "CF07",
               kBad,
               {"num_key_value_heads", "num_attention_heads"}},
        BadRow{"billion_layers",
               R"({"num_hidden_layers": 1000000000})",
               "CF08",
               kBad,
               {"num_hidden_layers", "4096"}},
        BadRow{"unknown",
               R"({"architectures": ["FancyForCausalLM"]})",
               "CF10",
               kUnknown,
               {"FancyForCausalLM", "LlamaForCausalLM", "GPT2LMHeadModel"}},
        BadRow{
            "unknown_type", R"({"-architectures": 0, "model_type": "fancy"})", "CF10", kUnknown, {"fancy"}},
        BadRow{"not_enabled",
               R"({"architectures": ["Phi3ForCausalLM"]})",
               "CF10",
               kUnknown,
               {"Phi3ForCausalLM", "declared but not enabled yet"}},
        BadRow{"activation", R"({"hidden_act": "mish"})", "CF10", kUnknown, {"hidden_act", "mish", "silu"}},
        BadRow{"custom_code",
               R"({"architectures": ["X"], "auto_map": {"AutoModel": "m.X"}})",
               "CF11",
               kUnknown,
               {"never executed"}},
        BadRow{"eos_beyond", R"({"eos_token_id": 256})", "CF13", kBad, {"eos_token_id", "256"}},
        BadRow{
            "eos_list_beyond", R"({"eos_token_id": [2, 999]})", "CF13", kBad, {"eos_token_id", "999", "256"}},
        BadRow{"eos_empty", R"({"eos_token_id": []})", "CF13", kBad, {"eos_token_id"}},
        BadRow{"eos_strings", R"({"eos_token_id": [2, "3"]})", "CF13", kBad, {"eos_token_id"}},
        BadRow{"bos_beyond", R"({"bos_token_id": 4000000000})", "CF13", kBad, {"bos_token_id"}},
        BadRow{"bos_list", R"({"bos_token_id": [1]})", "CF13", kBad, {"bos_token_id"}},
        BadRow{"rope_type",
               R"({"rope_scaling": {"type": "spiral", "factor": 2.0}})",
               "CF14",
               kUnknown,
               {"spiral"}},
        BadRow{"rope_factor_zero",
               R"({"rope_scaling": {"type": "linear", "factor": 0}})",
               "CF14",
               kBad,
               {"factor"}},
        BadRow{"rope_factor_missing", R"({"rope_scaling": {"type": "linear"}})", "CF14", kBad, {"factor"}},
        BadRow{"rope_factor_string",
               R"({"rope_scaling": {"type": "linear", "factor": "2"}})",
               "CF14",
               kBad,
               {"factor"}},
        BadRow{"rope_theta", R"({"rope_theta": -1.0})", "CF14", kBad, {"rope_theta"}},
        BadRow{"rope_string", R"({"rope_scaling": "linear"})", "CF14", kBad, {"rope_scaling"}},
        BadRow{"rope_list_length",
               R"({"rope_scaling": {"type": "longrope", "short_factor": [1, 1], "long_factor": [1, 1]}})",
               "CF14",
               kBad,
               {"short_factor", "8"}},
        BadRow{
            "rope_llama3",
            R"({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}})",
            "CF14",
            kBad,
            {"original_max_position_embeddings"}},
        BadRow{"rope_mscale",
               R"({"rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": 1.0}})",
               "CF14",
               kUnknown,
               {"mscale"}},
        BadRow{"odd_head", R"({"head_dim": 7})", "CF14", kBad, {"head_dim"}}),
    [](const auto& info) { return info.param.name; });

TEST(Config, ErrorsCarryLineAndColumn) {
  const auto config = configure(parsed("{\"architectures\": [\"LlamaForCausalLM\"],\n \"vocab_size\": 0}"));
  ASSERT_FALSE(config);
  EXPECT_THAT(format_error(config.error()),
              HasSubstr("m/config.json: 2:16: vocab_size: out of range (got 0"));
}

TEST(Config, MissingKeysMeanTheDefaultsOfTheClass) {
  const ModelConfig llama = test::checked(configure(with(kLlama, R"({"-num_key_value_heads": 0})")));
  EXPECT_EQ(llama.blocks[0].kv_heads, 4);
  EXPECT_EQ(llama.blocks[0].head_dim, 16);
  EXPECT_EQ(llama.max_positions, 2048);
  EXPECT_EQ(llama.norm_eps, 1e-6);
  EXPECT_FALSE(llama.tied_head);
  const ModelConfig mistral = test::checked(configure(with(
      kLlama,
      R"({"architectures": ["MistralForCausalLM"], "-num_key_value_heads": 0, "num_attention_heads": 8})")));
  EXPECT_EQ(mistral.blocks[1].kv_heads, 8);
  EXPECT_EQ(mistral.blocks[1].sliding_window, 4096);
  EXPECT_EQ(mistral.max_positions, 131072);
  const ModelConfig qwen3 =
      test::checked(configure(with(kLlama, R"({"architectures": ["Qwen3ForCausalLM"]})")));
  EXPECT_EQ(qwen3.blocks[0].head_dim, 128);
  EXPECT_TRUE(qwen3.query_key_norm);
}

TEST(Config, NullMeansAbsentNotTheDefault) {
  const ModelConfig mistral = test::checked(configure(with(
      kLlama, R"({"architectures": ["MistralForCausalLM"], "sliding_window": null, "head_dim": null})")));
  EXPECT_EQ(mistral.blocks[0].sliding_window, 0);
  EXPECT_EQ(mistral.blocks[0].head_dim, 16);
  const ModelConfig llama = test::checked(configure(
      with(kLlama, R"({"num_key_value_heads": null, "eos_token_id": null, "bos_token_id": null})")));
  EXPECT_EQ(llama.blocks[0].kv_heads, 4);
  EXPECT_TRUE(llama.eos_ids.empty());
  EXPECT_EQ(llama.bos_id, -1);
}

TEST(Config, EosMayBeAList) {
  EXPECT_EQ(test::checked(configure(with(kLlama, R"({"eos_token_id": [2, 7, 2]})"))).eos_ids,
            (std::vector<int32_t>{2, 7}));
}

TEST(Config, ModelTypeAloneIsEnough) {
  EXPECT_EQ(test::checked(configure(with(kLlama, R"({"-architectures": 0})"))).architecture,
            "LlamaForCausalLM");
  EXPECT_EQ(test::checked(configure(with(kLlama, R"({"architectures": null, "model_type": "qwen2"})")))
                .architecture,
            "Qwen2ForCausalLM");
}

TEST(Config, BothSpellingsOfRopeAgree) {
  const RopeConfig old_spelling =
      test::checked(configure(with(kLlama, R"({"rope_theta": 500000.0, "rope_scaling":
      {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
       "original_max_position_embeddings": 64}})")))
          .rope;
  const RopeConfig new_spelling =
      test::checked(configure(with(kLlama, R"({"-rope_theta": 0, "rope_parameters":
      {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
       "original_max_position_embeddings": 64}})")))
          .rope;
  EXPECT_EQ(old_spelling, new_spelling);
  EXPECT_EQ(old_spelling.kind, RopeConfig::Kind::llama3);
  EXPECT_EQ(old_spelling.theta, 500000.0);
  const std::string same = R"({"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0})";
  const RopeConfig keyed =
      test::checked(configure(with(kLlama, R"({"rope_parameters": {"full_attention": )" + same +
                                               R"(, "sliding_attention": )" + same + "}}")))
          .rope;
  EXPECT_EQ(keyed.kind, RopeConfig::Kind::linear);
  EXPECT_EQ(keyed.factor, 2.0);
}

TEST(Config, LongropeTakesItsFactorFromTheLengths) {
  const RopeConfig rope =
      test::checked(configure(with(kLlama, R"({"max_position_embeddings": 4096, "rope_scaling":
      {"type": "longrope", "original_max_position_embeddings": 1024,
       "short_factor": [1, 1, 1, 1, 1, 1, 1, 1], "long_factor": [2, 2, 2, 2, 2, 2, 2, 2]}})")))
          .rope;
  EXPECT_EQ(rope.factor, 4.0);
  EXPECT_EQ(rope.original_max_positions, 1024);
  EXPECT_EQ(rope.long_factors.size(), 8u);
}

std::vector<int64_t> windows(const std::string& changes) {
  const ModelConfig config = test::checked(configure(with(kLlama, changes)));
  std::vector<int64_t> result;
  for (const BlockConfig& block : config.blocks) result.push_back(block.sliding_window);
  return result;
}

TEST(Config, QwenWindows) {
  const std::string qwen =
      R"("architectures": ["Qwen2ForCausalLM"], "num_hidden_layers": 4, "sliding_window": 16)";
  EXPECT_EQ(windows("{" + qwen + R"(, "max_window_layers": 2})"), (std::vector<int64_t>{0, 0, 0, 0}));
  EXPECT_EQ(windows("{" + qwen + R"(, "max_window_layers": 2, "use_sliding_window": true})"),
            (std::vector<int64_t>{0, 0, 16, 16}));
  EXPECT_EQ(windows("{" + qwen + R"(, "use_sliding_window": true, "max_window_layers": 0, "layer_types":
      ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]})"),
            (std::vector<int64_t>{16, 0, 16, 0}));
  const auto wrong = configure(with(kLlama, "{" + qwen + R"(, "layer_types": ["full_attention"]})"));
  ASSERT_FALSE(wrong);
  EXPECT_THAT(format_error(wrong.error()), HasSubstr("layer_types"));
}

TEST(Config, MixtralKeys) {
  const std::string changes =
      R"("architectures": ["MixtralForCausalLM"], "intermediate_size": 96, "-rope_theta": 0)";
  const ModelConfig plain = test::checked(configure(with(kLlama, "{" + changes + "}")));
  EXPECT_EQ(plain.blocks[0].experts, 8);
  EXPECT_EQ(plain.blocks[0].experts_per_token, 2);
  EXPECT_EQ(plain.blocks[0].sliding_window, 0) << "unlike Mistral's";
  EXPECT_EQ(plain.rope.theta, 1e6);
  const ModelConfig chosen = test::checked(
      configure(with(kLlama, "{" + changes + R"(, "num_local_experts": 4, "num_experts_per_tok": 4,
                   "sliding_window": 16, "rms_norm_eps": 1e-4})")));
  for (const BlockConfig& block : chosen.blocks) {
    EXPECT_EQ(block.experts, 4);
    EXPECT_EQ(block.experts_per_token, 4);
    EXPECT_EQ(block.sliding_window, 16);
  }
  EXPECT_EQ(chosen.norm_eps, 1e-4);
  const char* const wrong[] = {R"(, "num_local_experts": 4, "num_experts_per_tok": 5})",
                               R"(, "num_experts_per_tok": 0})", R"(, "num_local_experts": 0})",
                               R"(, "num_local_experts": 4097})", R"(, "num_local_experts": "8"})"};
  for (const char* change : wrong) {
    const auto refused = configure(with(kLlama, "{" + changes + change));
    ASSERT_FALSE(refused) << change;
    EXPECT_EQ(refused.error().exit, Exit::malformed) << change;
    EXPECT_THAT(format_error(refused.error()), HasSubstr("num_")) << change;
  }
}

TEST(Config, TextPartIsMergedAndOtherPartsAreRefused) {
  const Json merged = test::checked(
      language_config(parsed(R"({"hidden_size": 1, "a": 2, "text_config": {"hidden_size": 64}})"), "p"));
  EXPECT_EQ(merged.find("hidden_size")->as_int(), 64);
  EXPECT_EQ(merged.find("a")->as_int(), 2);
  const auto refused =
      language_config(parsed(R"({"text_config": {"a": 1}, "vision_config": {"b": 2}})"), "p");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().exit, Exit::unsupported);
  EXPECT_THAT(format_error(refused.error()), HasSubstr("vision_config"));
}

TEST(Config, DtypeInBothSpellings) {
  EXPECT_EQ(test::checked(configure(with(kLlama, R"({"torch_dtype": "bfloat16"})"))).stored_dtype,
            DType::bf16);
  EXPECT_EQ(test::checked(configure(with(kLlama, R"({"dtype": "float16"})"))).stored_dtype, DType::f16);
}

TEST(Config, Gpt2Keys) {
  const char* gpt2 =
      R"({"architectures": ["GPT2LMHeadModel"], "vocab_size": 259, "n_embd": 64, "n_layer": 2, "n_head": 4})";
  const ModelConfig config = test::checked(configure(parsed(gpt2)));
  EXPECT_EQ(config.blocks[0].intermediate_size, 256);
  EXPECT_EQ(config.max_positions, 1024);
  EXPECT_TRUE(config.tied_head);
  EXPECT_EQ(config.activation, Activation::gelu_tanh);
  EXPECT_EQ(test::checked(configure(with(gpt2, R"({"n_ctx": 128})"))).max_positions, 128);
  EXPECT_EQ(test::checked(configure(with(gpt2, R"({"n_inner": null, "scale_attn_weights": false})")))
                .attention_scale,
            1.0);
  const auto cross = configure(with(gpt2, R"({"add_cross_attention": true})"));
  ASSERT_FALSE(cross);
  EXPECT_EQ(cross.error().exit, Exit::unsupported);
}

}  // namespace
}  // namespace pare
