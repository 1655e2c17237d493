// engine/models/layers/attention.h: grouped-query attention with rotary or no positions, with or without a
// cache.
#pragma once

#include <functional>

#include "engine/models/layers/linear_input.h"
#include "engine/models/layers/norm.h"
#include "engine/models/model.h"
#include "engine/models/rope.h"
#include "engine/models/weight.h"

namespace pare {

// Rotated queries and keys, and values of a block: f32 [tokens, heads * head_dim].
struct AttentionParts {
  Tensor q, k, v;
};
// Sees the parts of an attention and may add to their gradients; empty: nobody looks.
using AttentionHook = std::function<Status(const AttentionParts& parts, AttentionParts& gradients)>;

// What attention keeps of a batch for its backward.
struct AttentionActivations {
  Tensor raw_q, raw_k;  // before the norms of heads; undefined without them
  AttentionParts parts;
  Tensor fused;        // of which the parts are columns, when there is one projection
  Tensor mixed;        // f32 [tokens, heads * head_dim]: input of the output projection
  Tensor log_sum_exp;  // f32 [tokens, heads]
};

struct Attention {
  BlockConfig shape;
  float scale = 1.0f;    // of the scores
  float softcap = 0.0f;  // 0: none
  bool is_causal = true;
  KvQuant kv = {};           // how keys and values are kept; a cache must be of the same kind
  Weight query, key, value;  // undefined when fused
  Weight qkv;                // rows q, then k, then v
  Weight output;
  Norm query_norm, key_norm;  // per head; gains undefined: none

  // out [tokens, hidden] += attention(x). rotary may be null; cache may be null (sequences start at position
  // 0). x must not alias out.
  void forward(const LinearInput& x, const Batch& batch, const RotaryTable* rotary, BlockCache* cache,
               Tensor& out, Workspace& workspace) const;
  // The input of the output projection: mixed [tokens, heads * head_dim] = softmax(q k^T) v.
  void mix(const Tensor& x, const Batch& batch, const RotaryTable* rotary, BlockCache* cache, Tensor& mixed,
           Workspace& workspace) const;
  void mix(const LinearInput& x, const Batch& batch, const RotaryTable* rotary, BlockCache* cache,
           Tensor& mixed, Workspace& workspace) const;
  // Of mix() and forward(), beside x.
  size_t workspace_bytes(const Batch& batch, bool has_rotary) const;
  LinearReaders readers() const { return {&qkv, &query, &key, &value}; }  // of x

  // The same for training, on whole sequences.
  AttentionActivations take_activations(int64_t tokens, Workspace& kept) const;
  size_t activation_bytes(int64_t tokens) const;
  void forward_training(const Tensor& x, const Batch& batch, const RotaryTable* rotary,
                        AttentionActivations& kept, Tensor& out, Workspace& workspace) const;
  // Its first part alone: queries, keys and values of x into kept.parts.
  void project(const Tensor& x, const Batch& batch, const RotaryTable* rotary, AttentionActivations& kept,
               Workspace& workspace) const;
  // dx [tokens, hidden] is overwritten; dout is that of out
  Status backward(const Tensor& x, const Batch& batch, const RotaryTable* rotary,
                  const AttentionActivations& kept, const Tensor& dout, const AttentionHook& hook, Tensor& dx,
                  Workspace& workspace) const;
  size_t training_workspace_bytes(const Batch& batch) const;
  uint64_t size_bytes() const;
  bool is_fused() const { return qkv.out() > 0; }  // one matrix of queries, keys and values

 private:
  size_t projection_bytes(int64_t tokens) const;
  // Queries, keys and values as three views, of one tensor when fused.
  AttentionParts take_parts(int64_t tokens, Workspace& workspace, Tensor* fused) const;
};

}  // namespace pare
