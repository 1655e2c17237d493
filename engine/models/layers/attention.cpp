#include "engine/models/layers/attention.h"

#include <algorithm>
#include <cstring>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/tensor/ops.h"

namespace pare {
void Attention::forward(const LinearInput& x, const Batch& batch, const RotaryTable* rotary,
                        BlockCache* cache, Tensor& out, Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  Tensor mixed = workspace.take(DType::f32, {batch.tokens(), shape.heads * shape.head_dim});
  mix(x, batch, rotary, cache, mixed, workspace);
  output.multiply(mixed, /*accumulate=*/true, out, workspace);
}

void Attention::mix(const Tensor& x, const Batch& batch, const RotaryTable* rotary, BlockCache* cache,
                    Tensor& mixed, Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  mix(readers().input(x, workspace), batch, rotary, cache, mixed, workspace);
}

void Attention::mix(const LinearInput& x, const Batch& batch, const RotaryTable* rotary, BlockCache* cache,
                    Tensor& mixed, Workspace& workspace) const {
  const int64_t tokens = batch.tokens();
  const int64_t query_columns = shape.heads * shape.head_dim, kv_columns = shape.kv_heads * shape.head_dim;
  PARE_ASSERT(cache != nullptr || batch.first_position == 0, "[attention] positions from {} without a cache",
              batch.first_position);
  const Workspace::Scope scope(workspace);
  Tensor q, k, v;
  if (is_fused()) {
    Tensor fused = workspace.take(DType::f32, {tokens, query_columns + 2 * kv_columns});
    qkv.multiply(x, /*accumulate=*/false, fused, workspace);
    q = fused.columns(0, query_columns);
    k = fused.columns(query_columns, query_columns + kv_columns);
    v = fused.columns(query_columns + kv_columns, query_columns + 2 * kv_columns);
  } else {
    q = workspace.take(DType::f32, {tokens, query_columns});
    k = workspace.take(DType::f32, {tokens, kv_columns});
    v = workspace.take(DType::f32, {tokens, kv_columns});
    query.multiply(x, /*accumulate=*/false, q, workspace);
    key.multiply(x, /*accumulate=*/false, k, workspace);
    value.multiply(x, /*accumulate=*/false, v, workspace);
  }
  if (query_norm.gain.defined()) {
    Tensor query_heads = q.reshaped({tokens * shape.heads, shape.head_dim});
    Tensor key_heads = k.reshaped({tokens * shape.kv_heads, shape.head_dim});
    query_norm.forward(query_heads, query_heads);
    key_norm.forward(key_heads, key_heads);
  }
  if (rotary != nullptr) {
    const Workspace::Scope position_scope(workspace);
    Tensor positions = workspace.take(DType::i32, {tokens});
    ops::positions(batch.first_position, batch.tokens_per_sequence, positions);
    ops::rotary(q, positions, rotary->cosines(), rotary->sines(), shape.heads);
    ops::rotary(k, positions, rotary->cosines(), rotary->sines(), shape.kv_heads);
  }
  const ops::AttentionShape extent{.sequences = batch.sequences,
                                   .query_tokens = batch.tokens_per_sequence,
                                   .key_tokens = batch.first_position + batch.tokens_per_sequence,
                                   .query_offset = batch.first_position,
                                   .heads = shape.heads,
                                   .kv_heads = shape.kv_heads,
                                   .head_dim = shape.head_dim,
                                   .scale = scale,
                                   .softcap = softcap,
                                   .window = shape.sliding_window,
                                   .causal = is_causal};
  if (cache == nullptr) {
    // What a cache of codes would give back, so that whole sequences score as they would be generated.
    ops::kv_round(kv, k, shape.kv_heads);
    ops::kv_round(kv, v, shape.kv_heads);
    ops::attention(q, k, v, extent, mixed);
    return;
  }
  PARE_ASSERT(cache->kv == kv, "[attention] cache of {} for keys and values of {}", cache->kv.name(),
              kv.name());
  if (!kv.is_none()) {
    ops::kv_append(k, batch.tokens_per_sequence, batch.first_position, kv, shape.head_dim, cache->key_codes);
    ops::kv_append(v, batch.tokens_per_sequence, batch.first_position, kv, shape.head_dim,
                   cache->value_codes);
    ops::attention_cached(q, kv, cache->key_codes, cache->value_codes, extent, mixed);
  } else {
    PARE_ASSERT(cache->keys.size(0) == batch.sequences && cache->keys.size(2) >= extent.key_tokens,
                "[attention] cache {} for {} sequences of {} positions", cache->keys.shape().text(),
                batch.sequences, extent.key_tokens);
    ops::kv_append(k, batch.tokens_per_sequence, batch.first_position, cache->keys);
    ops::kv_append(v, batch.tokens_per_sequence, batch.first_position, cache->values);
    ops::attention_cached(q, cache->keys, cache->values, extent, mixed);
  }
}

size_t Attention::projection_bytes(int64_t tokens) const {
  if (is_fused()) return qkv.workspace_bytes(tokens);
  return std::max(
      {query.workspace_bytes(tokens), key.workspace_bytes(tokens), value.workspace_bytes(tokens)});
}

size_t Attention::workspace_bytes(const Batch& batch, bool has_rotary) const {
  const int64_t tokens = batch.tokens();
  const int64_t query_columns = shape.heads * shape.head_dim, kv_columns = shape.kv_heads * shape.head_dim;
  const auto floats = [&](int64_t columns) { return Workspace::bytes_for(DType::f32, {tokens, columns}); };
  const size_t parts =
      is_fused() ? floats(query_columns + 2 * kv_columns) : floats(query_columns) + 2 * floats(kv_columns);
  const size_t positions = has_rotary ? Workspace::bytes_for(DType::i32, {tokens}) : 0;
  return floats(query_columns) + readers().input_bytes(tokens) +
         std::max(parts + std::max(projection_bytes(tokens), positions), output.workspace_bytes(tokens));
}

uint64_t Attention::size_bytes() const {
  return query.size_bytes() + key.size_bytes() + value.size_bytes() + qkv.size_bytes() + output.size_bytes() +
         query_norm.size_bytes() + key_norm.size_bytes();
}

}  // namespace pare
