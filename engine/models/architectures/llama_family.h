// engine/models/architectures/llama_family.h: what Llama and its relatives have in common: names, shapes,
// config keys.
#pragma once

#include <array>
#include <span>
#include <string_view>
#include <vector>

#include "engine/models/architecture.h"
#include "engine/models/architectures/config_reader.h"

namespace pare {

// What a class assumes when a key is missing.
struct LlamaDefaults {
  std::string_view architecture;
  std::string_view model_type;
  std::optional<int64_t> kv_heads{};  // nothing: as many as heads
  std::optional<int64_t> head_dim{};  // nothing: hidden_size / heads
  int64_t max_positions = 2048;
  double rope_theta = 10000.0;
};

// Everything but biases, q/k norms and windows.
ModelConfig read_llama_like(ConfigReader& reader, const LlamaDefaults& defaults);

// use_sliding_window, sliding_window, max_window_layers and layer_types of Qwen2 and Qwen3, into the blocks.
void read_qwen_windows(ConfigReader& reader, ModelConfig& config);

// Tensors in execution order. Biases and q/k norms as the config says; blocks without experts.
std::vector<TensorSpec> describe_llama_like(const ModelConfig& config, std::string_view prefix);

// What a family calls the parts of its mixtures, inside a block.
struct ExpertNames {
  std::string_view router;          // "block_sparse_moe.gate"
  std::string_view experts;         // "block_sparse_moe.experts"
  std::string_view gate, up, down;  // of one expert: "w1", "w3", "w2"
};
// The same with a mixture in the blocks whose config has one.
std::vector<TensorSpec> describe_llama_mixture(const ModelConfig& config, std::string_view prefix,
                                               const ExpertNames& names);

inline constexpr std::array<std::string_view, 2> kLlamaPrefixes{"model.", ""};
inline constexpr std::array<std::string_view, 1> kLlamaIgnored{"*.rotary_emb.inv_freq"};
// A norm's gain before its consumers; value rows before o; up rows before down (the gate is not homogeneous).
inline constexpr std::array<FoldPair, 4> kLlamaFoldPairs{
    FoldPair{Role::input_norm, Site::attention_in}, FoldPair{Role::value, Site::attention_out},
    FoldPair{Role::post_attention_norm, Site::mlp_in}, FoldPair{Role::up, Site::mlp_out}};

}  // namespace pare
