#include "prune/structured/shape.h"

#include "engine/core/assert.h"

namespace pare {

Result<ModelShape> shape_of(const ModelConfig& config, std::string_view path) {
  const BlockConfig& first = config.blocks.front();
  for (const BlockConfig& block : config.blocks) {
    BlockConfig other = block;
    other.sliding_window = first.sliding_window;
    if (other == first) continue;
    return Error{.exit = Exit::unsupported,
                 .rule = {},
                 .path = std::string(path),
                 .where = "blocks",
                 .what = "blocks of different sizes cannot be cut further",
                 .got = {},
                 .limit = {}};
  }
  return ModelShape{.layers = config.block_count(),
                    .hidden = config.hidden_size,
                    .heads = first.heads,
                    .kv_heads = first.kv_heads,
                    .head_dim = first.head_dim,
                    .intermediate = first.intermediate_size,
                    .vocabulary = config.vocabulary_size,
                    .experts = first.experts,
                    .experts_per_token = first.experts_per_token};
}

ModelConfig resized(const ModelConfig& config, const ModelShape& shape) {
  PARE_ASSERT(shape.layers >= 0 && shape.layers <= config.block_count(), "[structured] {} of {} layers",
              shape.layers, config.block_count());
  ModelConfig result = config;
  result.hidden_size = shape.hidden;
  result.vocabulary_size = shape.vocabulary;
  result.blocks.resize(size_t(shape.layers));
  for (BlockConfig& block : result.blocks) {
    block.heads = shape.heads;
    block.kv_heads = shape.kv_heads;
    block.head_dim = shape.head_dim;
    block.intermediate_size = shape.intermediate;
    block.experts = shape.experts;
  }
  return result;
}

bool is_used_by_token(const ModelConfig& config, const TensorSpec& spec) {
  if (spec.role == Role::lm_head) return true;
  if (!spec.is_linear) return false;
  return spec.expert < 0 || spec.expert < config.blocks[size_t(spec.block)].experts_per_token;
}

ModelCost cost_of(const Architecture& family, const ModelConfig& config) {
  ModelCost cost;
  for (const TensorSpec& spec : family.describe(config, family.prefixes.front())) {
    cost.parameters += spec.shape.numel();
    if (is_used_by_token(config, spec)) cost.linear_weights += spec.shape.numel();
  }
  if (config.tied_head) cost.linear_weights += config.vocabulary_size * config.hidden_size;
  for (const BlockConfig& block : config.blocks) cost.kv_values += 2 * block.kv_heads * block.head_dim;
  return cost;
}

}  // namespace pare
