// activation, gated_activation, add, softcap, softmax
#include "engine/tensor/ops.h"
#include "engine/tensor/ops/checks.h"

namespace pare::ops {

void activation(Activation kind, const Tensor& x, Tensor& out) {
  require_activations("activation", "x", x);
  require_activations("activation", "out", out);
  require_same_shape("activation", x, out);
  require_same_device("activation", x, out);
  if (x.numel() == 0) return;
  backend_for(x.device())
      .activation({.x = x.data<float>(),
                   .out = out.mutable_data<float>(),
                   .rows = rows_of(x),
                   .columns = columns_of(x),
                   .x_stride = x.row_stride(),
                   .out_stride = out.row_stride(),
                   .kind = kind});
}

void gated_activation(Activation kind, const Tensor& gate, const Tensor& up, Tensor& out) {
  require_activations("gated_activation", "gate", gate);
  require_activations("gated_activation", "up", up);
  require_activations("gated_activation", "out", out);
  require_same_shape("gated_activation", gate, up);
  require_same_shape("gated_activation", gate, out);
  require_same_device("gated_activation", gate, up);
  require_same_device("gated_activation", gate, out);
  if (gate.numel() == 0) return;
  backend_for(gate.device())
      .gated_activation({.gate = gate.data<float>(),
                         .up = up.data<float>(),
                         .out = out.mutable_data<float>(),
                         .rows = rows_of(gate),
                         .columns = columns_of(gate),
                         .gate_stride = gate.row_stride(),
                         .up_stride = up.row_stride(),
                         .out_stride = out.row_stride(),
                         .kind = kind});
}

void add(const Tensor& x, const Tensor& y, Tensor& out) {
  for (const Tensor* tensor : {&x, &y, static_cast<const Tensor*>(&out)}) {
    require_type("add", "operand", *tensor, DType::f32);
    require_same_shape("add", x, *tensor);
    require_same_device("add", x, *tensor);
    PARE_ASSERT(tensor->is_contiguous(), "[add] view with gaps, {}", tensor->shape().text());
  }
  if (x.numel() == 0) return;
  backend_for(x.device())
      .add(
          {.x = x.data<float>(), .y = y.data<float>(), .out = out.mutable_data<float>(), .count = x.numel()});
}

void softcap(Tensor& x, float cap) {
  require_type("softcap", "x", x, DType::f32);
  PARE_ASSERT(x.is_contiguous(), "[softcap] view with gaps, {}", x.shape().text());
  PARE_ASSERT(cap > 0.0f, "[softcap] cap {}", cap);
  if (x.numel() == 0) return;
  backend_for(x.device()).softcap({.x = x.mutable_data<float>(), .count = x.numel(), .cap = cap});
}

void softmax(const Tensor& x, Tensor& out) {
  require_activations("softmax", "x", x);
  require_activations("softmax", "out", out);
  require_same_shape("softmax", x, out);
  require_same_device("softmax", x, out);
  if (x.numel() == 0) return;
  backend_for(x.device())
      .softmax({.x = x.data<float>(),
                .out = out.mutable_data<float>(),
                .rows = rows_of(x),
                .columns = columns_of(x),
                .x_stride = x.row_stride(),
                .out_stride = out.row_stride()});
}

}  // namespace pare::ops
