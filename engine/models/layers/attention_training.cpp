// Attention for training: whole sequences, and what they need kept.
#include <algorithm>

#include "engine/core/assert.h"
#include "engine/models/layers/attention.h"
#include "engine/tensor/training_ops.h"

namespace pare {
namespace {

ops::AttentionShape extent_of(const Attention& a, const Batch& batch) {
  return {.sequences = batch.sequences,
          .query_tokens = batch.tokens_per_sequence,
          .key_tokens = batch.tokens_per_sequence,
          .query_offset = 0,
          .heads = a.shape.heads,
          .kv_heads = a.shape.kv_heads,
          .head_dim = a.shape.head_dim,
          .scale = a.scale,
          .softcap = a.softcap,
          .window = a.shape.sliding_window,
          .causal = a.is_causal};
}

// Rows of heads as rows of their own.
Tensor heads_of(const Tensor& x, int64_t head_dim) {
  return x.reshaped({x.numel() / head_dim, head_dim});
}

}  // namespace

AttentionParts Attention::take_parts(int64_t tokens, Workspace& workspace, Tensor* fused) const {
  const int64_t queries = shape.heads * shape.head_dim, keys = shape.kv_heads * shape.head_dim;
  if (!is_fused())
    return {.q = workspace.take(DType::f32, {tokens, queries}),
            .k = workspace.take(DType::f32, {tokens, keys}),
            .v = workspace.take(DType::f32, {tokens, keys})};
  *fused = workspace.take(DType::f32, {tokens, queries + 2 * keys});
  return {.q = fused->columns(0, queries),
          .k = fused->columns(queries, queries + keys),
          .v = fused->columns(queries + keys, queries + 2 * keys)};
}

AttentionActivations Attention::take_activations(int64_t tokens, Workspace& kept) const {
  AttentionActivations activations;
  if (query_norm.gain.defined()) {
    activations.raw_q = kept.take(DType::f32, {tokens, shape.heads * shape.head_dim});
    activations.raw_k = kept.take(DType::f32, {tokens, shape.kv_heads * shape.head_dim});
  }
  activations.parts = take_parts(tokens, kept, &activations.fused);
  activations.mixed = kept.take(DType::f32, {tokens, shape.heads * shape.head_dim});
  activations.log_sum_exp = kept.take(DType::f32, {tokens, shape.heads});
  return activations;
}

size_t Attention::activation_bytes(int64_t tokens) const {
  const auto floats = [&](int64_t columns) { return Workspace::bytes_for(DType::f32, {tokens, columns}); };
  const int64_t queries = shape.heads * shape.head_dim, keys = shape.kv_heads * shape.head_dim;
  size_t bytes = is_fused() ? floats(queries + 2 * keys) : floats(queries) + 2 * floats(keys);
  if (query_norm.gain.defined()) bytes += floats(queries) + floats(keys);
  return bytes + floats(queries) + floats(shape.heads);
}

void Attention::project(const Tensor& x, const Batch& batch, const RotaryTable* rotary,
                        AttentionActivations& kept, Workspace& workspace) const {
  AttentionParts& parts = kept.parts;
  if (is_fused()) {
    qkv.multiply(x, /*accumulate=*/false, kept.fused, workspace);
  } else {
    const bool has_norms = query_norm.gain.defined();
    Tensor& q = has_norms ? kept.raw_q : parts.q;
    Tensor& k = has_norms ? kept.raw_k : parts.k;
    query.multiply(x, /*accumulate=*/false, q, workspace);
    key.multiply(x, /*accumulate=*/false, k, workspace);
    value.multiply(x, /*accumulate=*/false, parts.v, workspace);
    if (has_norms) {
      Tensor query_heads = heads_of(parts.q, shape.head_dim), key_heads = heads_of(parts.k, shape.head_dim);
      query_norm.forward(heads_of(q, shape.head_dim), query_heads);
      key_norm.forward(heads_of(k, shape.head_dim), key_heads);
    }
  }
  if (rotary != nullptr) {
    const Workspace::Scope scope(workspace);
    Tensor positions = workspace.take(DType::i32, {batch.tokens()});
    ops::positions(batch.first_position, batch.tokens_per_sequence, positions);
    ops::rotary(parts.q, positions, rotary->cosines(), rotary->sines(), shape.heads);
    ops::rotary(parts.k, positions, rotary->cosines(), rotary->sines(), shape.kv_heads);
  }
}

void Attention::forward_training(const Tensor& x, const Batch& batch, const RotaryTable* rotary,
                                 AttentionActivations& kept, Tensor& out, Workspace& workspace) const {
  PARE_ASSERT(kv.is_none(), "[attention] training with keys and values of {}", kv.name());
  project(x, batch, rotary, kept, workspace);
  const AttentionParts& parts = kept.parts;
  ops::attention_training(parts.q, parts.k, parts.v, extent_of(*this, batch), kept.mixed, kept.log_sum_exp);
  output.multiply(kept.mixed, /*accumulate=*/true, out, workspace);
}

Status Attention::backward(const Tensor& x, const Batch& batch, const RotaryTable* rotary,
                           const AttentionActivations& kept, const Tensor& dout, const AttentionHook& hook,
                           Tensor& dx, Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  const int64_t tokens = batch.tokens();
  Tensor dfused;
  AttentionParts d = take_parts(tokens, workspace, &dfused);
  {
    const Workspace::Scope mixed_scope(workspace);
    Tensor dmixed = workspace.take(DType::f32, kept.mixed.shape());
    output.backward(kept.mixed, dout, /*accumulate=*/false, &dmixed, workspace);
    ops::attention_backward(kept.parts.q, kept.parts.k, kept.parts.v, extent_of(*this, batch), kept.mixed,
                            kept.log_sum_exp, dmixed, d.q, d.k, d.v);
  }
  if (hook) PARE_CHECK(hook(kept.parts, d));
  if (rotary != nullptr) {
    const Workspace::Scope position_scope(workspace);
    Tensor positions = workspace.take(DType::i32, {tokens});
    ops::positions(batch.first_position, batch.tokens_per_sequence, positions);
    ops::rotary_backward(d.q, positions, rotary->cosines(), rotary->sines(), shape.heads);
    ops::rotary_backward(d.k, positions, rotary->cosines(), rotary->sines(), shape.kv_heads);
  }
  if (is_fused()) {
    qkv.backward(x, dfused, /*accumulate=*/false, &dx, workspace);
    return {};
  }
  if (query_norm.gain.defined()) {
    Tensor query_heads = heads_of(d.q, shape.head_dim), key_heads = heads_of(d.k, shape.head_dim);
    query_norm.backward(heads_of(kept.raw_q, shape.head_dim), query_heads, /*accumulate=*/false, query_heads,
                        workspace);
    key_norm.backward(heads_of(kept.raw_k, shape.head_dim), key_heads, /*accumulate=*/false, key_heads,
                      workspace);
  }
  query.backward(x, d.q, /*accumulate=*/false, &dx, workspace);
  key.backward(x, d.k, /*accumulate=*/true, &dx, workspace);
  value.backward(x, d.v, /*accumulate=*/true, &dx, workspace);
  return {};
}

size_t Attention::training_workspace_bytes(const Batch& batch) const {
  const int64_t tokens = batch.tokens();
  const int64_t queries = shape.heads * shape.head_dim, keys = shape.kv_heads * shape.head_dim;
  const auto floats = [&](int64_t columns) { return Workspace::bytes_for(DType::f32, {tokens, columns}); };
  size_t inner =
      std::max({Workspace::bytes_for(DType::i32, {tokens}),
                floats(queries) + output.backward_workspace_bytes(tokens), output.workspace_bytes(tokens),
                Norm::backward_workspace_bytes(tokens * std::max(shape.heads, shape.kv_heads))});
  if (is_fused()) {
    inner = std::max({inner, qkv.workspace_bytes(tokens), qkv.backward_workspace_bytes(tokens)});
  } else {
    for (const Weight* weight : {&query, &key, &value})
      inner = std::max({inner, weight->workspace_bytes(tokens), weight->backward_workspace_bytes(tokens)});
  }
  const size_t parts = is_fused() ? floats(queries + 2 * keys) : floats(queries) + 2 * floats(keys);
  return parts + inner;
}

}  // namespace pare
