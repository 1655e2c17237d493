// engine/models/layers/norm.h: RMS norm or LayerNorm over the channels of each token.
#pragma once

#include "engine/models/model_config.h"
#include "engine/tensor/ops.h"

namespace pare {

struct Norm {
  ModelConfig::Norm kind = ModelConfig::Norm::rms;
  float eps = 1e-6f;
  Tensor gain;          // f32 [channels]
  Tensor bias;          // f32 [channels]; LayerNorm only, may be undefined
  Tensor dgain, dbias;  // of trained norms, f32 [channels]; added to

  // x, out [tokens, channels]; may alias
  void forward(const Tensor& x, Tensor& out) const;
  // The same rounded for `weight` and all that round alike (ops::reads_rounded).
  ops::RoundedRows forward_rounded(const Tensor& x, const PackedMatrix& weight, Workspace& workspace) const;
  // x as in forward(); dx (+)= gradient, may alias dout; those of gain and bias are added to
  void backward(const Tensor& x, const Tensor& dout, bool accumulate, Tensor& dx, Workspace& workspace) const;
  static size_t backward_workspace_bytes(int64_t tokens);
  uint64_t size_bytes() const;
};

}  // namespace pare
