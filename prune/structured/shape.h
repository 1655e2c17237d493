// prune/structured/shape.h: the sizes of a model as plain numbers, and what they cost.
#pragma once

#include <cstdint>

#include "engine/models/architecture.h"

namespace pare {

// All blocks alike, as a plain checkpoint has them.
struct ModelShape {
  int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, intermediate = 0, vocabulary = 0;
  bool operator==(const ModelShape&) const = default;
};

// Exit 4 when blocks differ in size.
Result<ModelShape> shape_of(const ModelConfig& config, std::string_view path);

// The same model with these sizes; of blocks beyond `shape.layers` nothing stays, in order of the first ones.
ModelConfig resized(const ModelConfig& config, const ModelShape& shape);

struct ModelCost {
  int64_t parameters = 0;
  int64_t linear_weights = 0;  // of the blocks and the head: multiplications per token, attention left out
  int64_t kv_values = 0;       // numbers that a token leaves in the cache
  bool operator==(const ModelCost&) const = default;
};
ModelCost cost_of(const Architecture& family, const ModelConfig& config);

}  // namespace pare
