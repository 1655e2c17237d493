#include "engine/models/layers/norm.h"

#include "engine/tensor/training_ops.h"

namespace pare {

void Norm::forward(const Tensor& x, Tensor& out) const {
  if (kind == ModelConfig::Norm::layer) {
    ops::layer_norm(x, gain, bias, eps, out);
  } else {
    ops::rms_norm(x, gain, eps, kind == ModelConfig::Norm::rms_plus_one, out);
  }
}

ops::RoundedRows Norm::forward_rounded(const Tensor& x, const PackedMatrix& weight,
                                       Workspace& workspace) const {
  if (kind == ModelConfig::Norm::layer) return ops::layer_norm_rounded(x, gain, bias, eps, weight, workspace);
  return ops::rms_norm_rounded(x, gain, eps, kind == ModelConfig::Norm::rms_plus_one, weight, workspace);
}

// The gradients to add to are views, so that a const layer can be asked for them.
void Norm::backward(const Tensor& x, const Tensor& dout, bool accumulate, Tensor& dx,
                    Workspace& workspace) const {
  Tensor gain_gradient = dgain, bias_gradient = dbias;
  if (kind == ModelConfig::Norm::layer) {
    ops::layer_norm_backward(x, gain, eps, dout, accumulate, dx, gain_gradient, bias_gradient, workspace);
  } else {
    ops::rms_norm_backward(x, gain, eps, kind == ModelConfig::Norm::rms_plus_one, dout, accumulate, dx,
                           gain_gradient, workspace);
  }
}

size_t Norm::backward_workspace_bytes(int64_t tokens) {
  return ops::norm_backward_workspace_bytes(tokens);
}

uint64_t Norm::size_bytes() const {
  return (gain.defined() ? gain.size_bytes() : 0) + (bias.defined() ? bias.size_bytes() : 0);
}

}  // namespace pare
