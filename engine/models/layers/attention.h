// engine/models/layers/attention.h: grouped-query attention with rotary or no positions, with or without a
// cache.
#pragma once

#include "engine/models/layers/norm.h"
#include "engine/models/model.h"
#include "engine/models/rope.h"
#include "engine/models/weight.h"

namespace pare {

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
  void forward(const Tensor& x, const Batch& batch, const RotaryTable* rotary, BlockCache* cache, Tensor& out,
               Workspace& workspace) const;
  // The input of the output projection: mixed [tokens, heads * head_dim] = softmax(q k^T) v.
  void mix(const Tensor& x, const Batch& batch, const RotaryTable* rotary, BlockCache* cache, Tensor& mixed,
           Workspace& workspace) const;
  size_t workspace_bytes(const Batch& batch, bool has_rotary) const;
  uint64_t size_bytes() const;

 private:
  bool is_fused() const { return qkv.out() > 0; }
  size_t projection_bytes(int64_t tokens) const;
};

}  // namespace pare
