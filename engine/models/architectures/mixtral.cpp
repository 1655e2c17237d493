// MixtralForCausalLM: attention as Mistral, and in every block a mixture of gated MLPs.
#include "engine/core/limits.h"
#include "engine/models/architectures/families.h"
#include "engine/models/architectures/llama_family.h"

namespace pare {
namespace {

constexpr ExpertNames kNames{.router = "block_sparse_moe.gate",
                             .experts = "block_sparse_moe.experts",
                             .gate = "w1",
                             .up = "w3",
                             .down = "w2"};
// As Llama without the pair of up and down: a scale behind `up` would be one per expert.
constexpr std::array<FoldPair, 3> kFoldPairs{FoldPair{Role::input_norm, Site::attention_in},
                                             FoldPair{Role::value, Site::attention_out},
                                             FoldPair{Role::post_attention_norm, Site::mlp_in}};

Result<ModelConfig> configure(const Json& json, std::string_view path) {
  ConfigReader reader(json, path);
  ModelConfig config = read_llama_like(reader, {.architecture = "MixtralForCausalLM",
                                                .model_type = "mixtral",
                                                .kv_heads = 8,
                                                .max_positions = 131072,
                                                .rope_theta = 1e6});
  config.norm_eps = reader.positive("rms_norm_eps", 1e-5, 1.0);
  const auto window = reader.optional_integer("sliding_window", std::nullopt, 1, INT32_MAX);
  const int64_t experts = reader.integer("num_local_experts", 8, 1, int64_t(limits::kExperts));
  const int64_t per_token = reader.integer("num_experts_per_tok", 2, 1, experts);
  for (BlockConfig& block : config.blocks) {
    block.sliding_window = window.value_or(0);
    block.experts = experts;
    block.experts_per_token = per_token;
  }
  return reader.finish(std::move(config));
}

std::vector<TensorSpec> describe(const ModelConfig& config, std::string_view prefix) {
  return describe_llama_mixture(config, prefix, kNames);
}

}  // namespace

constinit const Architecture kMixtral{.name = "MixtralForCausalLM",
                                      .model_type = "mixtral",
                                      .configure = configure,
                                      .describe = describe,
                                      .prefixes = kLlamaPrefixes,
                                      .ignored = kLlamaIgnored,
                                      .fold_pairs = kFoldPairs};

}  // namespace pare
