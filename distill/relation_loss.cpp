// Relations inside the attention of student and teacher: A = softmax(X X^T / sqrt(d)), compared row by row.
#include <algorithm>
#include <cmath>

#include "distill/intermediate_loss.h"
#include "engine/tensor/training_ops.h"
#include "engine/tensor/transfer.h"

namespace pare {

size_t relation_loss_bytes(Device device, int64_t tokens_per_sequence, int64_t student_width,
                           int64_t teacher_width, int64_t relation_heads) {
  const int64_t tokens = tokens_per_sequence;
  const int64_t own = student_width / relation_heads, others = teacher_width / relation_heads;
  return 2 * Workspace::bytes_for(DType::f32, {tokens, tokens}) +
         2 * Workspace::bytes_for(DType::f32, {tokens, own}) +
         Workspace::bytes_for(DType::f32, {tokens, others}) + Workspace::bytes_for(DType::f64, {tokens}) +
         std::max({ops::matmul_workspace_bytes(device, tokens, tokens, own),
                   ops::matmul_workspace_bytes(device, tokens, tokens, others),
                   ops::matmul_input_backward_workspace_bytes(device, tokens, tokens, own),
                   ops::matmul_weight_backward_workspace_bytes(device, tokens, tokens, own)});
}

Status relation_loss(const Tensor& x, const Tensor& target, const Batch& batch, int64_t relation_heads,
                     bool is_causal, const Tensor& target_ids, double scale, Tensor& dx, Tensor& sum,
                     Workspace& workspace) {
  const int64_t tokens = batch.tokens_per_sequence;
  const int64_t own = x.size(1) / relation_heads, others = target.size(1) / relation_heads;
  PARE_ASSERT(own * relation_heads == x.size(1) && others * relation_heads == target.size(1),
              "[relation loss] {} heads in {} and {}", relation_heads, x.size(1), target.size(1));
  const ops::RelationScales scales{.student = 1.0 / std::sqrt(double(own)),
                                   .teacher = 1.0 / std::sqrt(double(others)),
                                   .gradient = scale / double(relation_heads)};
  const Workspace::Scope scope(workspace);
  Tensor student = workspace.take(DType::f32, {tokens, own}),
         gradient = workspace.take(DType::f32, {tokens, own});
  Tensor teacher = workspace.take(DType::f32, {tokens, others});
  Tensor scores = workspace.take(DType::f32, {tokens, tokens}),
         wanted = workspace.take(DType::f32, {tokens, tokens});
  Tensor values = workspace.take(DType::f64, {tokens}), none;
  for (int64_t first = 0; first < batch.tokens(); first += tokens) {
    const Tensor ids = target_ids.rows(first, first + tokens);
    for (int64_t head = 0; head < relation_heads; ++head) {
      // One sequence's part of one relation head, contiguous.
      const auto part_of = [&](const Tensor& all, int64_t width) {
        return all.rows(first, first + tokens).columns(head * width, (head + 1) * width);
      };
      PARE_CHECK(copy_into(part_of(x, own), student));
      PARE_CHECK(copy_into(part_of(target, others), teacher));
      ops::matmul(student, student, none, /*accumulate=*/false, scores, workspace);
      ops::matmul(teacher, teacher, none, /*accumulate=*/false, wanted, workspace);
      ops::relation_rows(scores, wanted, ids, is_causal, scales, values);
      ops::add_sum(values, 1.0 / double(relation_heads), sum);
      if (!dx.defined()) continue;
      // s_ij = x_i . x_j: dx_i gets g_ij x_j, and dx_j gets g_ij x_i
      ops::matmul_input_backward(scores, student, /*accumulate=*/false, gradient, workspace);
      ops::matmul_weight_backward(student, scores, gradient, none, workspace);
      Tensor out = part_of(dx, own);
      ops::add_rows(gradient, out);
    }
  }
  return {};
}

}  // namespace pare
