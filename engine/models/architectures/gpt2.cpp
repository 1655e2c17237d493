// GPT2LMHeadModel: learned positions, LayerNorm, plain MLP, and linears stored [in, out] (Conv1D) with q, k
// and v fused.
#include <fmt/core.h>

#include <array>

#include "engine/core/limits.h"
#include "engine/models/architectures/config_reader.h"
#include "engine/models/architectures/families.h"

namespace pare {
namespace {

Result<ModelConfig> configure(const Json& json, std::string_view path) {
  constexpr int64_t kMaxSize = int64_t(limits::kHiddenSize);
  ConfigReader reader(json, path);
  ModelConfig config;
  config.architecture = "GPT2LMHeadModel";
  config.model_type = "gpt2";
  config.vocabulary_size = reader.required("vocab_size", 1, int64_t(limits::kVocabulary));
  config.hidden_size = reader.required("n_embd", 1, kMaxSize);
  const int64_t layers = reader.required("n_layer", 1, int64_t(limits::kLayers));
  const int64_t heads = reader.required("n_head", 1, kMaxSize);
  reader.require_divisible("n_embd", config.hidden_size, "n_head", heads);
  const int64_t intermediate =
      reader.optional_integer("n_inner", std::nullopt, 1, kMaxSize).value_or(4 * config.hidden_size);
  config.max_positions =
      reader.integer("n_positions", reader.integer("n_ctx", 1024, 1, INT32_MAX - 1), 1, INT32_MAX - 1);
  config.norm = ModelConfig::Norm::layer;
  config.norm_eps = reader.positive("layer_norm_epsilon", 1e-5, 1.0);
  config.activation = reader.activation("activation_function", "gelu_new");
  config.gated_mlp = false;
  config.positions = ModelConfig::Positions::learned;
  config.qkv_bias = config.attention_output_bias = config.mlp_bias = true;
  config.tied_head = reader.flag("tie_word_embeddings", true);
  config.attention_scale = reader.flag("scale_attn_weights", true) ? 0.0 : 1.0;
  config.scale_by_inverse_layer = reader.flag("scale_attn_by_inverse_layer_idx", false);
  reader.refuse("add_cross_attention", "cross attention is not supported");
  reader.common(config);
  if (reader.ok())
    config.blocks.assign(size_t(layers), BlockConfig{.heads = heads,
                                                     .kv_heads = heads,
                                                     .head_dim = config.hidden_size / heads,
                                                     .intermediate_size = intermediate,
                                                     .sliding_window = 0});
  return reader.finish(std::move(config));
}

std::vector<TensorSpec> describe(const ModelConfig& config, std::string_view prefix) {
  std::vector<TensorSpec> specs;
  const int64_t hidden = config.hidden_size;
  int block = -1;
  std::string stem(prefix);

  const auto norm = [&](std::string_view name, Role gain, Role bias) {
    specs.push_back(
        {.name = fmt::format("{}{}.weight", stem, name), .role = gain, .block = block, .shape = {hidden}});
    specs.push_back(
        {.name = fmt::format("{}{}.bias", stem, name), .role = bias, .block = block, .shape = {hidden}});
  };
  const auto linear = [&](std::string_view name, Role role, Site site, int64_t out, int64_t in) {
    const std::string weight = fmt::format("{}{}.weight", stem, name);
    specs.push_back({.name = weight,
                     .role = role,
                     .block = block,
                     .site = site,
                     .shape = {in, out},
                     .is_linear = true,
                     .transposed = true});
    specs.push_back({.name = fmt::format("{}{}.bias", stem, name),
                     .role = Role::bias,
                     .block = block,
                     .shape = {out},
                     .owner = weight});
  };

  specs.push_back({.name = stem + "wte.weight",
                   .role = Role::embedding,
                   .block = block,
                   .shape = {config.vocabulary_size, hidden}});
  specs.push_back({.name = stem + "wpe.weight",
                   .role = Role::positions,
                   .block = block,
                   .shape = {config.max_positions, hidden}});
  for (block = 0; block < config.block_count(); ++block) {
    const BlockConfig& shape = config.blocks[size_t(block)];
    const int64_t rows = shape.heads * shape.head_dim;
    stem = fmt::format("{}h.{}.", prefix, block);
    norm("ln_1", Role::input_norm, Role::input_norm_bias);
    linear("attn.c_attn", Role::qkv, Site::attention_in, 3 * rows, hidden);
    linear("attn.c_proj", Role::attention_output, Site::attention_out, hidden, rows);
    norm("ln_2", Role::post_attention_norm, Role::post_attention_norm_bias);
    linear("mlp.c_fc", Role::up, Site::mlp_in, shape.intermediate_size, hidden);
    linear("mlp.c_proj", Role::down, Site::mlp_out, hidden, shape.intermediate_size);
  }
  stem = prefix;
  norm("ln_f", Role::final_norm, Role::final_norm_bias);
  if (!config.tied_head)
    specs.push_back({.name = "lm_head.weight",
                     .role = Role::lm_head,
                     .block = block,
                     .site = Site::head_in,
                     .shape = {config.vocabulary_size, hidden}});
  return specs;
}

constexpr std::array<std::string_view, 2> kPrefixes{"transformer.", ""};
constexpr std::array<std::string_view, 2> kIgnored{"*.attn.bias", "*.attn.masked_bias"};
// GELU is not homogeneous, so nothing folds through the MLP; of the fused rows only those of v fold into
// c_proj.
constexpr std::array<FoldPair, 3> kFoldPairs{FoldPair{Role::input_norm, Site::attention_in},
                                             FoldPair{Role::qkv, Site::attention_out},
                                             FoldPair{Role::post_attention_norm, Site::mlp_in}};

}  // namespace

constinit const Architecture kGpt2{.name = "GPT2LMHeadModel",
                                   .model_type = "gpt2",
                                   .configure = configure,
                                   .describe = describe,
                                   .prefixes = kPrefixes,
                                   .ignored = kIgnored,
                                   .fold_pairs = kFoldPairs};

}  // namespace pare
