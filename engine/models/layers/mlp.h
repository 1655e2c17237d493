// engine/models/layers/mlp.h: the feed-forward half of a block.
//   gated: down(f(gate x) * up x)      plain: down(f(up x))
#pragma once

#include "engine/models/layers/linear_input.h"
#include "engine/tensor/backend.h"

namespace pare {

// What an MLP keeps of a batch for its backward.
struct MlpActivations {
  Tensor gate;  // f32 [tokens, intermediate]: before f; of gated ones
  Tensor up;    // before f when there is no gate
};

struct Mlp {
  Activation activation = Activation::silu;
  bool is_gated = true;
  int64_t intermediate_size = 0;
  Weight gate, up, down;  // gate of gated ones only

  // out [tokens, hidden] += mlp(x); x must not alias out
  void forward(const LinearInput& x, Tensor& out, Workspace& workspace) const;
  // The input of down: inner [tokens, intermediate] = f(gate x) * up x, or f(up x).
  void activate(const Tensor& x, Tensor& inner, Workspace& workspace) const;
  void activate(const LinearInput& x, Tensor& inner, Workspace& workspace) const;
  size_t workspace_bytes(int64_t tokens) const;           // beside x
  LinearReaders readers() const { return {&gate, &up}; }  // of x

  MlpActivations take_activations(int64_t tokens, Workspace& kept) const;
  size_t activation_bytes(int64_t tokens) const;
  // out += mlp(x)
  void forward_training(const Tensor& x, MlpActivations& kept, Tensor& out, Workspace& workspace) const;
  // dx [tokens, hidden] (+)= gradient
  void backward(const Tensor& x, const MlpActivations& kept, const Tensor& dout, bool accumulate, Tensor& dx,
                Workspace& workspace) const;
  // In parts: inner = f(gate) * up from what was kept; and from dinner on, which is used up together with
  // inner.
  void activate_kept(const MlpActivations& kept, Tensor& inner) const;
  void backward_inner(const Tensor& x, const MlpActivations& kept, Tensor& inner, Tensor& dinner,
                      bool accumulate, Tensor& dx, Workspace& workspace) const;
  size_t training_workspace_bytes(int64_t tokens) const;
  uint64_t size_bytes() const { return gate.size_bytes() + up.size_bytes() + down.size_bytes(); }
};

}  // namespace pare
