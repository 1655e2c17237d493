// round_inputs and its gradient
#include "engine/tensor/ops/training_checks.h"

namespace pare::ops {
namespace {

void check_step(std::string_view op, const ActivationQuant& activation, const Tensor& step, const Tensor& x) {
  const bool is_static = activation.mode == ActivationQuant::Mode::static_tensor;
  PARE_ASSERT(step.defined() == is_static, "[{}] {} with a step: {}", op, activation.text(), step.defined());
  if (!is_static) return;
  require_vector(op, "step", step, DType::f32, 1);
  require_same_device(op, x, step);
}

}  // namespace

void round_inputs(const Tensor& x, const ActivationQuant& activation, const Tensor& step, Tensor& out) {
  require_alike("round_inputs", {&x, &out});
  check_step("round_inputs", activation, step, x);
  if (x.numel() == 0) return;
  trainer_for("round_inputs", x)
      .round_inputs({.x = x.data<float>(),
                     .out = out.mutable_data<float>(),
                     .step = data_or_null(step),
                     .rows = rows_of(x),
                     .columns = columns_of(x),
                     .x_stride = x.row_stride(),
                     .out_stride = out.row_stride(),
                     .activation = activation});
}

void round_inputs_backward(const Tensor& x, const ActivationQuant& activation, const Tensor& step,
                           double share, Tensor& dx, Tensor& dstep) {
  require_alike("round_inputs_backward", {&x, &dx});
  PARE_ASSERT(step.defined(), "[round_inputs_backward] {} learns nothing", activation.text());
  check_step("round_inputs_backward", activation, step, x);
  check_step("round_inputs_backward", activation, dstep, x);
  if (x.numel() == 0) return;
  trainer_for("round_inputs_backward", x)
      .round_inputs_backward({.x = x.data<float>(),
                              .dx = dx.mutable_data<float>(),
                              .step = step.data<float>(),
                              .dstep = dstep.mutable_data<float>(),
                              .rows = rows_of(x),
                              .columns = columns_of(x),
                              .x_stride = x.row_stride(),
                              .dx_stride = dx.row_stride(),
                              .activation = activation,
                              .share = share});
}

}  // namespace pare::ops
