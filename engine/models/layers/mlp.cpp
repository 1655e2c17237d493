#include "engine/models/layers/mlp.h"

#include <algorithm>

#include "engine/tensor/ops.h"

namespace pare {

void Mlp::forward(const Tensor& x, Tensor& out, Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  Tensor inner = workspace.take(DType::f32, {x.size(0), intermediate_size});
  activate(x, inner, workspace);
  down.multiply(inner, /*accumulate=*/true, out, workspace);
}

void Mlp::activate(const Tensor& x, Tensor& inner, Workspace& workspace) const {
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

size_t Mlp::workspace_bytes(int64_t tokens) const {
  const size_t inner = Workspace::bytes_for(DType::f32, {tokens, intermediate_size});
  const size_t first = is_gated ? inner + std::max(gate.workspace_bytes(tokens), up.workspace_bytes(tokens))
                                : up.workspace_bytes(tokens);
  return inner + std::max(first, down.workspace_bytes(tokens));
}

}  // namespace pare
