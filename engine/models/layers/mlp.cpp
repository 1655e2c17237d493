#include "engine/models/layers/mlp.h"

#include <algorithm>

#include "engine/tensor/training_ops.h"

namespace pare {

void Mlp::forward(const LinearInput& x, Tensor& out, Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  Tensor inner = workspace.take(DType::f32, {out.size(0), intermediate_size});
  activate(x, inner, workspace);
  down.multiply(inner, /*accumulate=*/true, out, workspace);
}

void Mlp::activate(const Tensor& x, Tensor& inner, Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  activate(readers().input(x, workspace), inner, workspace);
}

void Mlp::activate(const LinearInput& x, Tensor& inner, Workspace& workspace) const {
  if (is_gated) {
    const Workspace::Scope scope(workspace);
    Tensor gated = workspace.take(DType::f32, inner.shape());
    gate.multiply(x, /*accumulate=*/false, inner, workspace);
    up.multiply(x, /*accumulate=*/false, gated, workspace);
    ops::gated_activation(activation, inner, gated, inner);
  } else {
    up.multiply(x, /*accumulate=*/false, inner, workspace);
    ops::activation(activation, inner, inner);
  }
}

MlpActivations Mlp::take_activations(int64_t tokens, Workspace& kept) const {
  MlpActivations activations;
  if (is_gated) activations.gate = kept.take(DType::f32, {tokens, intermediate_size});
  activations.up = kept.take(DType::f32, {tokens, intermediate_size});
  return activations;
}

size_t Mlp::activation_bytes(int64_t tokens) const {
  return (is_gated ? 2 : 1) * Workspace::bytes_for(DType::f32, {tokens, intermediate_size});
}

void Mlp::forward_training(const Tensor& x, MlpActivations& kept, Tensor& out, Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  Tensor inner = workspace.take(DType::f32, {x.size(0), intermediate_size});
  if (is_gated) gate.multiply(x, /*accumulate=*/false, kept.gate, workspace);
  up.multiply(x, /*accumulate=*/false, kept.up, workspace);
  activate_kept(kept, inner);
  down.multiply(inner, /*accumulate=*/true, out, workspace);
}

void Mlp::activate_kept(const MlpActivations& kept, Tensor& inner) const {
  if (is_gated) {
    ops::gated_activation(activation, kept.gate, kept.up, inner);
  } else {
    ops::activation(activation, kept.up, inner);
  }
}

void Mlp::backward(const Tensor& x, const MlpActivations& kept, const Tensor& dout, bool accumulate,
                   Tensor& dx, Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  Tensor inner = workspace.take(DType::f32, {x.size(0), intermediate_size});
  Tensor dinner = workspace.take(DType::f32, {x.size(0), intermediate_size});
  activate_kept(kept, inner);
  down.backward(inner, dout, /*accumulate=*/false, &dinner, workspace);
  backward_inner(x, kept, inner, dinner, accumulate, dx, workspace);
}

void Mlp::backward_inner(const Tensor& x, const MlpActivations& kept, Tensor& inner, Tensor& dinner,
                         bool accumulate, Tensor& dx, Workspace& workspace) const {
  if (is_gated) {
    Tensor& dup = inner;  // its values are not needed any more
    Tensor& dgate = dinner;
    ops::gated_activation_backward(activation, kept.gate, kept.up, dinner, dgate, dup);
    gate.backward(x, dgate, accumulate, &dx, workspace);
    up.backward(x, dup, /*accumulate=*/true, &dx, workspace);
  } else {
    ops::activation_backward(activation, kept.up, dinner, dinner);
    up.backward(x, dinner, accumulate, &dx, workspace);
  }
}

size_t Mlp::training_workspace_bytes(int64_t tokens) const {
  size_t products = std::max(up.backward_workspace_bytes(tokens), down.backward_workspace_bytes(tokens));
  products = std::max({products, up.workspace_bytes(tokens), down.workspace_bytes(tokens)});
  if (is_gated)
    products = std::max({products, gate.backward_workspace_bytes(tokens), gate.workspace_bytes(tokens)});
  return 2 * Workspace::bytes_for(DType::f32, {tokens, intermediate_size}) + products;
}

size_t Mlp::workspace_bytes(int64_t tokens) const {
  const size_t inner = Workspace::bytes_for(DType::f32, {tokens, intermediate_size});
  const size_t first = is_gated ? inner + std::max(gate.workspace_bytes(tokens), up.workspace_bytes(tokens))
                                : up.workspace_bytes(tokens);
  return inner + readers().input_bytes(tokens) + std::max(first, down.workspace_bytes(tokens));
}

}  // namespace pare
