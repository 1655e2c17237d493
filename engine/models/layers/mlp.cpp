#include "engine/models/layers/mlp.h"

#include <algorithm>

#include "engine/tensor/ops.h"

namespace pare {

void Mlp::forward(const Tensor& x, Tensor& out, Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  const Shape shape{x.size(0), intermediate_size};
  Tensor inner = workspace.take(DType::f32, shape);
  if (is_gated) {
    const Workspace::Scope inner_scope(workspace);
    Tensor gated = workspace.take(DType::f32, shape);
    gate.multiply(x, /*accumulate=*/false, inner, workspace);
    up.multiply(x, /*accumulate=*/false, gated, workspace);
    ops::gated_activation(activation, inner, gated, inner);
  } else {
    up.multiply(x, /*accumulate=*/false, inner, workspace);
    ops::activation(activation, inner, inner);
  }
  down.multiply(inner, /*accumulate=*/true, out, workspace);
}

size_t Mlp::workspace_bytes(int64_t tokens) const {
  const size_t inner = Workspace::bytes_for(DType::f32, {tokens, intermediate_size});
  const size_t first = is_gated ? inner + std::max(gate.workspace_bytes(tokens), up.workspace_bytes(tokens))
                                : up.workspace_bytes(tokens);
  return inner + std::max(first, down.workspace_bytes(tokens));
}

}  // namespace pare
