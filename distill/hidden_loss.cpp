// Hidden states of student and teacher: mean squared error and cosine, through a projection where sizes
// differ.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "distill/intermediate_loss.h"
#include "engine/core/parallel.h"
#include "engine/tensor/training_ops.h"

namespace pare {
namespace {

constexpr double kLeastNorm = 1e-8;
constexpr int64_t kRowsAtOnce = 16;

// |a - b|^2 / size; the gradient with respect to a, times scale, into g (may be null)
double squared_error(const float* a, const float* b, int64_t size, double scale, float* g) {
  double sum = 0.0;
  for (int64_t c = 0; c < size; ++c) {
    const double error = double(a[c]) - double(b[c]);
    sum += error * error;
    if (g != nullptr) g[c] = float(scale * 2.0 / double(size) * error);
  }
  return sum / double(size);
}

// 1 - cos(a, b); gradient -(b / |b| - cos a / |a|) / |a|
double cosine_distance(const float* a, const float* b, int64_t size, double scale, float* g) {
  double product = 0.0, squares_a = 0.0, squares_b = 0.0;
  for (int64_t c = 0; c < size; ++c) {
    product += double(a[c]) * double(b[c]);
    squares_a += double(a[c]) * double(a[c]);
    squares_b += double(b[c]) * double(b[c]);
  }
  const double norm_a = std::max(std::sqrt(squares_a), kLeastNorm),
               norm_b = std::max(std::sqrt(squares_b), kLeastNorm);
  const double cosine = product / (norm_a * norm_b);
  for (int64_t c = 0; g != nullptr && c < size; ++c)
    g[c] = float(-scale * (double(b[c]) / norm_b - cosine * double(a[c]) / norm_a) / norm_a);
  return 1.0 - cosine;
}

// Sum over counting rows; rows of `gradient` (where defined) are written, those that do not count with zeros.
double compare_rows(HiddenLossKind kind, const Tensor& a, const Tensor& b, const Tensor& ids, double scale,
                    Tensor& gradient) {
  const int64_t rows = a.size(0), size = a.size(1);
  std::vector<double> values(size_t(rows), 0.0);
  parallel_ranges(rows, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* g = gradient.defined() ? gradient.mutable_data<float>() + row * gradient.row_stride() : nullptr;
      if (ids.data<int32_t>()[row] < 0) {
        if (g != nullptr) std::fill_n(g, size, 0.0f);
        continue;
      }
      const float* x = a.data<float>() + row * a.row_stride();
      const float* y = b.data<float>() + row * b.row_stride();
      values[size_t(row)] = kind == HiddenLossKind::mse ? squared_error(x, y, size, scale, g)
                                                        : cosine_distance(x, y, size, scale, g);
    }
  });
  double sum = 0.0;
  for (const double value : values) sum += value;
  return sum;
}

}  // namespace

size_t hidden_loss_bytes(Device device, int64_t tokens, int64_t student_size, int64_t teacher_size) {
  const size_t rows = Workspace::bytes_for(DType::f32, {tokens, teacher_size});
  if (student_size == teacher_size) return rows;
  return 2 * rows +
         std::max({ops::matmul_workspace_bytes(device, tokens, teacher_size, student_size),
                   ops::matmul_input_backward_workspace_bytes(device, tokens, teacher_size, student_size),
                   ops::matmul_weight_backward_workspace_bytes(device, tokens, teacher_size, student_size)});
}

double hidden_loss(HiddenLossKind kind, const Tensor& h, const Tensor& target, Parameter* projection,
                   const Tensor& target_ids, double scale, Tensor& dh, Workspace& workspace) {
  const Workspace::Scope scope(workspace);
  Tensor gradient = dh.defined() ? workspace.take(DType::f32, target.shape()) : Tensor();
  Tensor none;
  if (projection == nullptr) {
    const double value = compare_rows(kind, h, target, target_ids, scale, gradient);
    if (dh.defined()) ops::add(dh, gradient, dh);
    return value;
  }
  Tensor projected = workspace.take(DType::f32, target.shape());
  ops::matmul(h, projection->value, none, /*accumulate=*/false, projected, workspace);
  const double value = compare_rows(kind, projected, target, target_ids, scale, gradient);
  if (!dh.defined()) return value;
  ops::matmul_weight_backward(h, gradient, projection->gradient, none, workspace);
  ops::matmul_input_backward(gradient, projection->value, /*accumulate=*/true, dh, workspace);
  return value;
}

}  // namespace pare
