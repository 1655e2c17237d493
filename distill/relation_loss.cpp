// Relations inside the attention of student and teacher: A = softmax(X X^T / sqrt(d)), compared row by row.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "distill/intermediate_loss.h"
#include "engine/core/parallel.h"
#include "engine/tensor/training_ops.h"

namespace pare {
namespace {

constexpr int64_t kRowsAtOnce = 8;

// One sequence's part of one relation head, contiguous [tokens, d].
void copy_head(const Tensor& x, int64_t first_row, int64_t first_column, Tensor& out) {
  for (int64_t row = 0; row < out.size(0); ++row)
    std::memcpy(out.mutable_data<float>() + row * out.size(1),
                x.data<float>() + (first_row + row) * x.row_stride() + first_column,
                size_t(out.size(1)) * sizeof(float));
}

double log_sum_exp(const float* scores, int64_t count, double scale) {
  const double largest = double(*std::max_element(scores, scores + count)) * scale;
  double sum = 0.0;
  for (int64_t c = 0; c < count; ++c) sum += std::exp(double(scores[c]) * scale - largest);
  return largest + std::log(sum);
}

// KL(A_t || A_s) of one row; its gradient by the student's products x_i . x_j, times `factor`, in place of
// them.
double compare_row(float* student, double student_scale, const float* teacher, double teacher_scale,
                   int64_t count, double factor) {
  const double student_sum = log_sum_exp(student, count, student_scale);
  const double teacher_sum = log_sum_exp(teacher, count, teacher_scale);
  double value = 0.0;
  for (int64_t c = 0; c < count; ++c) {
    const double log_s = double(student[c]) * student_scale - student_sum;
    const double log_t = double(teacher[c]) * teacher_scale - teacher_sum;
    const double t = std::exp(log_t);
    value += t * (log_t - log_s);
    student[c] = float(factor * student_scale * (std::exp(log_s) - t));
  }
  return value;
}

}  // namespace

size_t relation_loss_bytes(Device device, int64_t tokens_per_sequence, int64_t student_width,
                           int64_t teacher_width, int64_t relation_heads) {
  const int64_t tokens = tokens_per_sequence;
  const int64_t own = student_width / relation_heads, others = teacher_width / relation_heads;
  return 2 * Workspace::bytes_for(DType::f32, {tokens, tokens}) +
         2 * Workspace::bytes_for(DType::f32, {tokens, own}) +
         Workspace::bytes_for(DType::f32, {tokens, others}) +
         std::max({ops::matmul_workspace_bytes(device, tokens, tokens, own),
                   ops::matmul_workspace_bytes(device, tokens, tokens, others),
                   ops::matmul_input_backward_workspace_bytes(device, tokens, tokens, own),
                   ops::matmul_weight_backward_workspace_bytes(device, tokens, tokens, own)});
}

double relation_loss(const Tensor& x, const Tensor& target, const Batch& batch, int64_t relation_heads,
                     bool is_causal, const Tensor& target_ids, double scale, Tensor& dx,
                     Workspace& workspace) {
  const int64_t tokens = batch.tokens_per_sequence;
  const int64_t own = x.size(1) / relation_heads, others = target.size(1) / relation_heads;
  PARE_ASSERT(own * relation_heads == x.size(1) && others * relation_heads == target.size(1),
              "[relation loss] {} heads in {} and {}", relation_heads, x.size(1), target.size(1));
  const double own_scale = 1.0 / std::sqrt(double(own)), others_scale = 1.0 / std::sqrt(double(others));
  const Workspace::Scope scope(workspace);
  Tensor student = workspace.take(DType::f32, {tokens, own}),
         gradient = workspace.take(DType::f32, {tokens, own});
  Tensor teacher = workspace.take(DType::f32, {tokens, others});
  Tensor scores = workspace.take(DType::f32, {tokens, tokens}),
         wanted = workspace.take(DType::f32, {tokens, tokens});
  Tensor none;
  std::vector<double> values(static_cast<size_t>(tokens));
  double sum = 0.0;
  for (int64_t sequence = 0; sequence < batch.sequences; ++sequence) {
    const int64_t first = sequence * tokens;
    const int32_t* ids = target_ids.data<int32_t>() + first;
    for (int64_t head = 0; head < relation_heads; ++head) {
      copy_head(x, first, head * own, student);
      copy_head(target, first, head * others, teacher);
      ops::matmul(student, student, none, /*accumulate=*/false, scores, workspace);
      ops::matmul(teacher, teacher, none, /*accumulate=*/false, wanted, workspace);
      parallel_ranges(tokens, kRowsAtOnce, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          float* own_row = scores.mutable_data<float>() + row * tokens;
          const int64_t count = ids[row] < 0 ? 0 : is_causal ? row + 1 : tokens;
          values[size_t(row)] = 0.0;
          if (count > 0)
            values[size_t(row)] = compare_row(own_row, own_scale, wanted.data<float>() + row * tokens,
                                              others_scale, count, scale / double(relation_heads));
          std::fill(own_row + count, own_row + tokens, 0.0f);
        }
      });
      for (const double value : values) sum += value;
      if (!dx.defined()) continue;
      // s_ij = x_i . x_j: dx_i gets g_ij x_j, and dx_j gets g_ij x_i
      ops::matmul_input_backward(scores, student, /*accumulate=*/false, gradient, workspace);
      ops::matmul_weight_backward(student, scores, gradient, none, workspace);
      for (int64_t row = 0; row < tokens; ++row) {
        float* out = dx.mutable_data<float>() + (first + row) * dx.row_stride() + head * own;
        for (int64_t c = 0; c < own; ++c) out[c] += gradient.data<float>()[row * own + c];
      }
    }
  }
  return sum / double(relation_heads);
}

}  // namespace pare
