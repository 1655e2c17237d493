#include "engine/models/architectures/llama_family.h"

#include <fmt/core.h>

#include <algorithm>

#include "engine/core/limits.h"

namespace pare {
namespace {

constexpr int64_t kMaxSize = int64_t(limits::kHiddenSize);
constexpr int64_t kMaxPositions = INT32_MAX - 1;

}  // namespace

ModelConfig read_llama_like(ConfigReader& reader, const LlamaDefaults& defaults) {
  ModelConfig config;
  config.architecture = defaults.architecture;
  config.model_type = defaults.model_type;
  config.vocabulary_size = reader.required("vocab_size", 1, int64_t(limits::kVocabulary));
  config.hidden_size = reader.required("hidden_size", 1, kMaxSize);
  const int64_t layers = reader.required("num_hidden_layers", 1, int64_t(limits::kLayers));
  const int64_t heads = reader.required("num_attention_heads", 1, kMaxSize);
  const int64_t kv_heads =
      reader.optional_integer("num_key_value_heads", defaults.kv_heads.value_or(heads), 1, kMaxSize)
          .value_or(heads);
  std::optional<int64_t> head_dim = reader.optional_integer("head_dim", defaults.head_dim, 1, kMaxSize);
  if (!head_dim) {
    reader.require_divisible("hidden_size", config.hidden_size, "num_attention_heads", heads);
    head_dim = std::max<int64_t>(config.hidden_size / heads, 1);
  }
  reader.require_divisible("num_attention_heads", heads, "num_key_value_heads", kv_heads);
  const int64_t intermediate = reader.required("intermediate_size", 1, kMaxSize);
  config.max_positions = reader.integer("max_position_embeddings", defaults.max_positions, 1, kMaxPositions);
  config.norm = ModelConfig::Norm::rms;
  config.norm_eps = reader.positive("rms_norm_eps", 1e-6, 1.0);
  config.activation = reader.activation("hidden_act", "silu");
  config.gated_mlp = true;
  config.tied_head = reader.flag("tie_word_embeddings", false);
  config.positions = ModelConfig::Positions::rotary;
  if (!reader.ok()) return config;
  config.rope = reader.rope(*head_dim, config.max_positions, defaults.rope_theta);
  reader.common(config);
  config.blocks.assign(size_t(layers), BlockConfig{.heads = heads,
                                                   .kv_heads = kv_heads,
                                                   .head_dim = *head_dim,
                                                   .intermediate_size = intermediate,
                                                   .sliding_window = 0});
  return config;
}

void read_qwen_windows(ConfigReader& reader, ModelConfig& config) {
  if (!reader.ok()) return;
  const bool use_window = reader.flag("use_sliding_window", false);
  const auto sliding = reader.sliding_layers(config.block_count());
  if (!use_window) return;
  const auto window = reader.optional_integer("sliding_window", 4096, 1, kMaxPositions);
  const int64_t first_sliding = reader.integer("max_window_layers", 28, 0, kMaxPositions);
  if (!window) return;
  for (int64_t i = 0; i < config.block_count(); ++i) {
    const bool slides = sliding ? (*sliding)[size_t(i)] : i >= first_sliding;
    config.blocks[size_t(i)].sliding_window = slides ? *window : 0;
  }
}

std::vector<TensorSpec> describe_llama_like(const ModelConfig& config, std::string_view prefix) {
  return describe_llama_mixture(config, prefix, {});
}

std::vector<TensorSpec> describe_llama_mixture(const ModelConfig& config, std::string_view prefix,
                                               const ExpertNames& names) {
  std::vector<TensorSpec> specs;
  const int64_t hidden = config.hidden_size;
  int block = -1, expert = -1;
  std::string stem(prefix);

  const auto vector_of = [&](std::string_view name, Role role, int64_t size) {
    specs.push_back({.name = stem + std::string(name), .role = role, .block = block, .shape = {size}});
  };
  const auto linear = [&](std::string_view name, Role role, Site site, int64_t out, int64_t in,
                          bool has_bias) {
    const std::string weight = fmt::format("{}{}.weight", stem, name);
    specs.push_back({.name = weight,
                     .role = role,
                     .block = block,
                     .site = site,
                     .shape = {out, in},
                     .is_linear = true,
                     .expert = expert});
    if (has_bias)
      specs.push_back({.name = fmt::format("{}{}.bias", stem, name),
                       .role = Role::bias,
                       .block = block,
                       .shape = {out},
                       .owner = weight});
  };

  const auto mixture = [&](const BlockConfig& shape) {
    specs.push_back({.name = fmt::format("{}{}.weight", stem, names.router),
                     .role = Role::router,
                     .block = block,
                     .site = Site::mlp_in,
                     .shape = {shape.experts, hidden}});
    for (expert = 0; expert < int(shape.experts); ++expert) {
      const auto part = [&](std::string_view name) {
        return fmt::format("{}.{}.{}", names.experts, expert, name);
      };
      linear(part(names.gate), Role::gate, Site::mlp_in, shape.intermediate_size, hidden, false);
      linear(part(names.up), Role::up, Site::mlp_in, shape.intermediate_size, hidden, false);
      linear(part(names.down), Role::down, Site::mlp_out, hidden, shape.intermediate_size, false);
    }
    expert = -1;
  };

  specs.push_back({.name = stem + "embed_tokens.weight",
                   .role = Role::embedding,
                   .block = block,
                   .shape = {config.vocabulary_size, hidden}});
  for (block = 0; block < config.block_count(); ++block) {
    const BlockConfig& shape = config.blocks[size_t(block)];
    const int64_t query_rows = shape.heads * shape.head_dim;
    const int64_t kv_rows = shape.kv_heads * shape.head_dim;
    stem = fmt::format("{}layers.{}.", prefix, block);
    vector_of("input_layernorm.weight", Role::input_norm, hidden);
    linear("self_attn.q_proj", Role::query, Site::attention_in, query_rows, hidden, config.qkv_bias);
    linear("self_attn.k_proj", Role::key, Site::attention_in, kv_rows, hidden, config.qkv_bias);
    linear("self_attn.v_proj", Role::value, Site::attention_in, kv_rows, hidden, config.qkv_bias);
    if (config.query_key_norm) {
      vector_of("self_attn.q_norm.weight", Role::query_norm, shape.head_dim);
      vector_of("self_attn.k_norm.weight", Role::key_norm, shape.head_dim);
    }
    linear("self_attn.o_proj", Role::attention_output, Site::attention_out, hidden, query_rows,
           config.attention_output_bias);
    vector_of("post_attention_layernorm.weight", Role::post_attention_norm, hidden);
    if (shape.is_mixture()) {
      mixture(shape);
    } else {
      linear("mlp.gate_proj", Role::gate, Site::mlp_in, shape.intermediate_size, hidden, config.mlp_bias);
      linear("mlp.up_proj", Role::up, Site::mlp_in, shape.intermediate_size, hidden, config.mlp_bias);
      linear("mlp.down_proj", Role::down, Site::mlp_out, hidden, shape.intermediate_size, config.mlp_bias);
    }
  }
  stem = prefix;
  vector_of("norm.weight", Role::final_norm, hidden);
  if (!config.tied_head)
    specs.push_back({.name = "lm_head.weight",
                     .role = Role::lm_head,
                     .block = block,
                     .site = Site::head_in,
                     .shape = {config.vocabulary_size, hidden}});
  return specs;
}

}  // namespace pare
