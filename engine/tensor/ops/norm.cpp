// rms_norm, layer_norm
#include "engine/tensor/ops.h"
#include "engine/tensor/ops/checks.h"

namespace pare::ops {

void rms_norm(const Tensor& x, const Tensor& gain, float eps, bool gain_plus_one, Tensor& out) {
  require_activations("rms_norm", "x", x);
  require_activations("rms_norm", "out", out);
  require_same_shape("rms_norm", x, out);
  require_same_device("rms_norm", x, out);
  require_same_device("rms_norm", x, gain);
  require_vector("rms_norm", "gain", gain, DType::f32, columns_of(x));
  if (x.numel() == 0) return;
  backend_for(x.device())
      .rms_norm({.x = x.data<float>(),
                 .gain = gain.data<float>(),
                 .out = out.mutable_data<float>(),
                 .tokens = rows_of(x),
                 .channels = columns_of(x),
                 .x_stride = x.row_stride(),
                 .out_stride = out.row_stride(),
                 .eps = eps,
                 .gain_plus_one = gain_plus_one});
}

void layer_norm(const Tensor& x, const Tensor& gain, const Tensor& bias, float eps, Tensor& out) {
  require_activations("layer_norm", "x", x);
  require_activations("layer_norm", "out", out);
  require_same_shape("layer_norm", x, out);
  require_same_device("layer_norm", x, out);
  require_same_device("layer_norm", x, gain);
  require_vector("layer_norm", "gain", gain, DType::f32, columns_of(x));
  if (bias.defined()) {
    require_vector("layer_norm", "bias", bias, DType::f32, columns_of(x));
    require_same_device("layer_norm", x, bias);
  }
  if (x.numel() == 0) return;
  backend_for(x.device())
      .layer_norm({.x = x.data<float>(),
                   .gain = gain.data<float>(),
                   .bias = bias.defined() ? bias.data<float>() : nullptr,
                   .out = out.mutable_data<float>(),
                   .tokens = rows_of(x),
                   .channels = columns_of(x),
                   .x_stride = x.row_stride(),
                   .out_stride = out.row_stride(),
                   .eps = eps});
}

}  // namespace pare::ops
