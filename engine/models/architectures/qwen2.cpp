// Qwen2ForCausalLM (Qwen2, Qwen2.5): as Llama with biases on q, k and v, and windows on the upper blocks when
// asked for.
#include "engine/models/architectures/families.h"
#include "engine/models/architectures/llama_family.h"

namespace pare {
namespace {

Result<ModelConfig> configure(const Json& json, std::string_view path) {
  ConfigReader reader(json, path);
  ModelConfig config = read_llama_like(
      reader,
      {.architecture = "Qwen2ForCausalLM", .model_type = "qwen2", .kv_heads = 32, .max_positions = 32768});
  config.qkv_bias = true;
  read_qwen_windows(reader, config);
  return reader.finish(std::move(config));
}

}  // namespace

constinit const Architecture kQwen2{.name = "Qwen2ForCausalLM",
                                    .model_type = "qwen2",
                                    .configure = configure,
                                    .describe = describe_llama_like,
                                    .prefixes = kLlamaPrefixes,
                                    .ignored = kLlamaIgnored,
                                    .fold_pairs = kLlamaFoldPairs};

}  // namespace pare
