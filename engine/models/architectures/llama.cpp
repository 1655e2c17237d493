// LlamaForCausalLM: the reference family; SmolLM, TinyLlama and many others are written as it.
#include "engine/models/architectures/families.h"
#include "engine/models/architectures/llama_family.h"

namespace pare {
namespace {

Result<ModelConfig> configure(const Json& json, std::string_view path) {
  ConfigReader reader(json, path);
  ModelConfig config = read_llama_like(reader, {.architecture = "LlamaForCausalLM", .model_type = "llama"});
  config.qkv_bias = config.attention_output_bias = reader.flag("attention_bias", false);
  config.mlp_bias = reader.flag("mlp_bias", false);
  return reader.finish(std::move(config));
}

}  // namespace

constinit const Architecture kLlama{.name = "LlamaForCausalLM",
                                    .model_type = "llama",
                                    .configure = configure,
                                    .describe = describe_llama_like,
                                    .prefixes = kLlamaPrefixes,
                                    .ignored = kLlamaIgnored,
                                    .fold_pairs = kLlamaFoldPairs};

}  // namespace pare
