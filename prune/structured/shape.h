// prune/structured/shape.h: the sizes of a model as plain numbers, and what they cost.
#pragma once

#include <cstdint>

#include "engine/models/architecture.h"

namespace pare {

// All blocks alike, as a plain checkpoint has them.
struct ModelShape {
  int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, intermediate = 0, vocabulary = 0;
  int64_t experts = 0, experts_per_token = 0;  // of mixtures, else 0; the second is not changed
  bool operator==(const ModelShape&) const = default;
};

// Exit 4 when blocks differ in size.
Result<ModelShape> shape_of(const ModelConfig& config, std::string_view path);

// The same model with these sizes; of blocks beyond `shape.layers` nothing stays, in order of the first ones.
ModelConfig resized(const ModelConfig& config, const ModelShape& shape);

struct ModelCost {
  int64_t parameters = 0;
  // Of the blocks and the head: multiplications per token, attention left out. Of a mixture the experts that
  // a token takes.
  int64_t linear_weights = 0;
  int64_t kv_values = 0;  // numbers that a token leaves in the cache
  bool operator==(const ModelCost&) const = default;
};
// Whether a token passes this linear, or one as large in its place: of a mixture as many experts as it takes.
bool is_used_by_token(const ModelConfig& config, const TensorSpec& spec);
ModelCost cost_of(const Architecture& family, const ModelConfig& config);

}  // namespace pare
