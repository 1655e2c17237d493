#include "engine/models/layers/norm.h"

#include "engine/tensor/ops.h"

namespace pare {

void Norm::forward(const Tensor& x, Tensor& out) const {
  if (kind == ModelConfig::Norm::layer) {
    ops::layer_norm(x, gain, bias, eps, out);
  } else {
    ops::rms_norm(x, gain, eps, kind == ModelConfig::Norm::rms_plus_one, out);
  }
}

uint64_t Norm::size_bytes() const {
  return (gain.defined() ? gain.size_bytes() : 0) + (bias.defined() ? bias.size_bytes() : 0);
}

}  // namespace pare
