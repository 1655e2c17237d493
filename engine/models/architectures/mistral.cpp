// MistralForCausalLM: as Llama, never a bias, one sliding window for all blocks.
#include "engine/models/architectures/families.h"
#include "engine/models/architectures/llama_family.h"

namespace pare {
namespace {

Result<ModelConfig> configure(const Json& json, std::string_view path) {
  ConfigReader reader(json, path);
  ModelConfig config = read_llama_like(reader, {.architecture = "MistralForCausalLM",
                                                .model_type = "mistral",
                                                .kv_heads = 8,
                                                .max_positions = 131072});
  // null turns the window off, a missing key does not
  const auto window = reader.optional_integer("sliding_window", 4096, 1, INT32_MAX);
  for (BlockConfig& block : config.blocks) block.sliding_window = window.value_or(0);
  return reader.finish(std::move(config));
}

}  // namespace

constinit const Architecture kMistral{.name = "MistralForCausalLM",
                                      .model_type = "mistral",
                                      .configure = configure,
                                      .describe = describe_llama_like,
                                      .prefixes = kLlamaPrefixes,
                                      .ignored = kLlamaIgnored,
                                      .fold_pairs = kLlamaFoldPairs};

}  // namespace pare
