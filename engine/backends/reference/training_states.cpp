// Losses between states of student and teacher, as their formulas stand in training_backend.h.
#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/backends/reference/training_class.h"
#include "engine/core/parallel.h"

namespace pare::reference {
namespace {

using Row = std::vector<double>;

Row row_of(const float* x, int64_t count) {
  return Row(x, x + count);
}

double dot(const Row& a, const Row& b) {
  double sum = 0.0;
  for (size_t c = 0; c < a.size(); ++c) sum += a[c] * b[c];
  return sum;
}

// The value, and the gradient by x in place of it.
double distance(StateDistance kind, Row& x, const Row& teacher) {
  if (kind == StateDistance::squared) {
    double sum = 0.0;
    for (size_t c = 0; c < x.size(); ++c) {
      x[c] -= teacher[c];
      sum += x[c] * x[c];
      x[c] *= 2.0 / double(x.size());
    }
    return sum / double(x.size());
  }
  const double size = std::max(std::sqrt(dot(x, x)), kLeastStateNorm);
  const double teacher_size = std::max(std::sqrt(dot(teacher, teacher)), kLeastStateNorm);
  const double cosine = dot(x, teacher) / (size * teacher_size);
  for (size_t c = 0; c < x.size(); ++c) x[c] = (cosine * x[c] / size - teacher[c] / teacher_size) / size;
  return 1.0 - cosine;
}

// log softmax(scale * scores)
Row log_probabilities(const float* scores, int64_t count, double scale) {
  Row logs = row_of(scores, count);
  for (double& value : logs) value *= scale;
  const double largest = *std::max_element(logs.begin(), logs.end());
  double sum = 0.0;
  for (const double value : logs) sum += std::exp(value - largest);
  for (double& value : logs) value -= largest + std::log(sum);
  return logs;
}

}  // namespace

void ReferenceTraining::state_distance(const StateDistanceArgs& a) {
  parallel_for(a.rows, [&](int64_t row) {
    const bool counts = a.ids[row] >= 0;
    Row x = row_of(a.x + row * a.x_stride, a.columns);
    const double value = distance(a.kind, x, row_of(a.teacher + row * a.teacher_stride, a.columns));
    a.values[row] = counts ? value : 0.0;
    for (int64_t c = 0; a.dx != nullptr && c < a.columns; ++c) {
      float& out = a.dx[row * a.dx_stride + c];
      const double gradient = counts ? a.scale * x[size_t(c)] : 0.0;
      out = float(a.accumulate ? double(out) + gradient : gradient);
    }
  });
}

void ReferenceTraining::relation_rows(const RelationRowsArgs& a) {
  parallel_for(a.rows, [&](int64_t row) {
    float* scores = a.scores + row * a.stride;
    const int64_t count = a.ids[row] < 0 ? 0 : a.causal ? row + 1 : a.columns;
    a.values[row] = 0.0;
    if (count > 0) {
      const Row student = log_probabilities(scores, count, a.scale);
      const Row teacher = log_probabilities(a.teacher + row * a.teacher_stride, count, a.teacher_scale);
      for (size_t c = 0; c < student.size(); ++c) {
        const double s = std::exp(student[c]), t = std::exp(teacher[c]);
        if (!(t <= 0.0)) a.values[row] += t * (teacher[c] - student[c]);
        scores[c] = float(a.gradient_scale * a.scale * (s - t));
      }
    }
    std::fill(scores + count, scores + a.columns, 0.0f);
  });
}

}  // namespace pare::reference
