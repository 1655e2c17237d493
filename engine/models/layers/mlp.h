// engine/models/layers/mlp.h: the feed-forward half of a block.
//   gated: down(f(gate x) * up x)      plain: down(f(up x))
#pragma once

#include "engine/models/weight.h"
#include "engine/tensor/backend.h"

namespace pare {

struct Mlp {
  Activation activation = Activation::silu;
  bool is_gated = true;
  int64_t intermediate_size = 0;
  Weight gate, up, down;  // gate of gated ones only

  // out [tokens, hidden] += mlp(x); x must not alias out
  void forward(const Tensor& x, Tensor& out, Workspace& workspace) const;
  // The input of down: inner [tokens, intermediate] = f(gate x) * up x, or f(up x).
  void activate(const Tensor& x, Tensor& inner, Workspace& workspace) const;
  size_t workspace_bytes(int64_t tokens) const;
  uint64_t size_bytes() const { return gate.size_bytes() + up.size_bytes() + down.size_bytes(); }
};

}  // namespace pare
