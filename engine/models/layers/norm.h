// engine/models/layers/norm.h: RMS norm or LayerNorm over the channels of each token.
#pragma once

#include "engine/models/model_config.h"
#include "engine/tensor/tensor.h"

namespace pare {

struct Norm {
  ModelConfig::Norm kind = ModelConfig::Norm::rms;
  float eps = 1e-6f;
  Tensor gain;  // f32 [channels]
  Tensor bias;  // f32 [channels]; LayerNorm only, may be undefined

  // x, out [tokens, channels]; may alias
  void forward(const Tensor& x, Tensor& out) const;
  uint64_t size_bytes() const;
};

}  // namespace pare
