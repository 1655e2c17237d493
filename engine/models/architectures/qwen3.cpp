// Qwen3ForCausalLM: as Llama with an RMS norm on every head of q and k before the rotation; head_dim of its
// own.
#include "engine/models/architectures/families.h"
#include "engine/models/architectures/llama_family.h"

namespace pare {
namespace {

Result<ModelConfig> configure(const Json& json, std::string_view path) {
  ConfigReader reader(json, path);
  ModelConfig config = read_llama_like(reader, {.architecture = "Qwen3ForCausalLM",
                                                .model_type = "qwen3",
                                                .kv_heads = 32,
                                                .head_dim = 128,
                                                .max_positions = 32768});
  config.qkv_bias = config.attention_output_bias = reader.flag("attention_bias", false);
  config.query_key_norm = true;
  read_qwen_windows(reader, config);
  return reader.finish(std::move(config));
}

}  // namespace

constinit const Architecture kQwen3{.name = "Qwen3ForCausalLM",
                                    .model_type = "qwen3",
                                    .configure = configure,
                                    .describe = describe_llama_like,
                                    .prefixes = kLlamaPrefixes,
                                    .ignored = kLlamaIgnored,
                                    .fold_pairs = kLlamaFoldPairs};

}  // namespace pare
