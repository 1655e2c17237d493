// formats/gguf/names.h: tensor names of GGUF <-> Hugging Face, and how the values differ; internal to
// formats.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "engine/models/architecture.h"

namespace pare {

// How a tensor's values in GGUF differ from the checkpoint's.
enum class GgufChange : uint8_t {
  none,
  permuted,    // llama q and k: rows of each head are interleaved, for rotation of neighbours
  transposed,  // GPT-2 linears: [out, in] in GGUF, [in, out] in the checkpoint
};

struct GgufName {
  std::string name;  // in the other naming
  GgufChange change = GgufChange::none;
  Role role = Role::embedding;  // of the weight; a bias has the role of its owner
};

// architecture: "llama", "qwen2", "qwen3" or "gpt2". Nothing for a name that no such model has.
std::optional<GgufName> checkpoint_name(std::string_view architecture, std::string_view gguf_name);

// The GGUF name of a tensor of a model. `owner`: the weight that a bias belongs to.
GgufName gguf_name(std::string_view architecture, const TensorSpec& spec, const TensorSpec* owner);

// The row of a permuted matrix in GGUF that holds row `row` of the checkpoint. Source: docs/interop.md.
inline int64_t permuted_row(int64_t row, int64_t head_dim) {
  const int64_t head = row / head_dim, within = row % head_dim, half = head_dim / 2;
  return head * head_dim + 2 * (within % half) + within / half;
}

}  // namespace pare
