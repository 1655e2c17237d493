// formats/gguf/config_read.h: the metadata of a GGUF model -> a config.json; internal to formats.
#pragma once

#include <string>
#include <vector>

#include "engine/core/json.h"
#include "formats/gguf/metadata.h"

namespace pare {

// What the tensors say about the model; everything else stands in the metadata.
struct GgufFacts {
  int64_t vocabulary_rows = 0;      // of token_embd.weight
  bool has_head = false;            // output.weight is there
  bool has_attention_bias = false;  // attn_q.bias is there
  bool has_mlp_bias = false;        // ffn_up.bias is there
  std::string dtype;                // "float32", "float16", "bfloat16": what activations would be kept in
  std::vector<float> rope_factors;  // rope_freqs.weight
};

// "llama", "qwen2", "qwen3" or "gpt2". GG35: exit 3 when general.architecture is missing, 4 when the family
// is not one that pare runs.
Result<std::string> gguf_architecture(const GgufMetadata& metadata);

// Query heads' size: rows of a head, also of one of k.
Result<int64_t> gguf_head_dim(const GgufMetadata& metadata, const std::string& architecture);

// A config.json that describe_model accepts. Exit 3 (GG22, GG33) or 4 (settings that pare does not compute).
Result<Json> gguf_config(const GgufMetadata& metadata, const std::string& architecture,
                         const GgufFacts& facts);

}  // namespace pare
