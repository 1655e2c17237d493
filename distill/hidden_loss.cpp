// Hidden states of student and teacher: mean squared error and cosine, through a projection where sizes
// differ.
#include <algorithm>

#include "distill/intermediate_loss.h"
#include "engine/tensor/training_ops.h"

namespace pare {

size_t hidden_loss_bytes(Device device, int64_t tokens, int64_t student_size, int64_t teacher_size) {
  const size_t values = Workspace::bytes_for(DType::f64, {tokens});
  if (student_size == teacher_size) return values;
  return values + 2 * Workspace::bytes_for(DType::f32, {tokens, teacher_size}) +
         std::max({ops::matmul_workspace_bytes(device, tokens, teacher_size, student_size),
                   ops::matmul_input_backward_workspace_bytes(device, tokens, teacher_size, student_size),
                   ops::matmul_weight_backward_workspace_bytes(device, tokens, teacher_size, student_size)});
}

void hidden_loss(HiddenLossKind kind, const Tensor& h, const Tensor& target, Parameter* projection,
                 const Tensor& target_ids, double scale, Tensor& dh, Tensor& sum, Workspace& workspace) {
  PARE_ASSERT(kind != HiddenLossKind::none, "[hidden loss] none");
  const StateDistance distance = kind == HiddenLossKind::mse ? StateDistance::squared : StateDistance::cosine;
  const Workspace::Scope scope(workspace);
  Tensor values = workspace.take(DType::f64, {h.size(0)}), none;
  if (projection == nullptr) {
    ops::state_distance(distance, h, target, target_ids, scale, /*accumulate=*/true, values, dh);
    return ops::add_sum(values, 1.0, sum);
  }
  Tensor projected = workspace.take(DType::f32, target.shape());
  Tensor gradient = dh.defined() ? workspace.take(DType::f32, target.shape()) : Tensor();
  ops::matmul(h, projection->value, none, /*accumulate=*/false, projected, workspace);
  ops::state_distance(distance, projected, target, target_ids, scale, /*accumulate=*/false, values, gradient);
  ops::add_sum(values, 1.0, sum);
  if (!dh.defined()) return;
  ops::matmul_weight_backward(h, gradient, projection->gradient, none, workspace);
  ops::matmul_input_backward(gradient, projection->value, /*accumulate=*/true, dh, workspace);
}

}  // namespace pare
