// What every host does alike for losses between states of student and teacher.
#include <algorithm>
#include <cmath>

#include "engine/core/parallel.h"
#include "engine/tensor/training_backend.h"

namespace pare {
namespace {

constexpr int64_t kRowsAtOnce = 16, kRelationsAtOnce = 8;

void put(float* to, bool accumulate, float value) {
  *to = accumulate ? *to + value : value;
}

// |a - b|^2 / size; the gradient with respect to a, times scale, into g (may be null)
double squared_distance(const float* a, const float* b, const StateDistanceArgs& args, float* g) {
  const int64_t size = args.columns;
  double sum = 0.0;
  for (int64_t c = 0; c < size; ++c) {
    const double error = double(a[c]) - double(b[c]);
    sum += error * error;
    if (g != nullptr) put(g + c, args.accumulate, float(args.scale * 2.0 / double(size) * error));
  }
  return sum / double(size);
}

// 1 - cos(a, b); gradient -(b / |b| - cos a / |a|) / |a|
double cosine_distance(const float* a, const float* b, const StateDistanceArgs& args, float* g) {
  const int64_t size = args.columns;
  double product = 0.0, squares_a = 0.0, squares_b = 0.0;
  for (int64_t c = 0; c < size; ++c) {
    product += double(a[c]) * double(b[c]);
    squares_a += double(a[c]) * double(a[c]);
    squares_b += double(b[c]) * double(b[c]);
  }
  const double norm_a = std::max(std::sqrt(squares_a), kLeastStateNorm),
               norm_b = std::max(std::sqrt(squares_b), kLeastStateNorm);
  const double cosine = product / (norm_a * norm_b);
  for (int64_t c = 0; g != nullptr && c < size; ++c)
    put(g + c, args.accumulate,
        float(-args.scale * (double(b[c]) / norm_b - cosine * double(a[c]) / norm_a) / norm_a));
  return 1.0 - cosine;
}

double log_sum_exp(const float* scores, int64_t count, double scale) {
  const double largest = double(*std::max_element(scores, scores + count)) * scale;
  double sum = 0.0;
  for (int64_t c = 0; c < count; ++c) sum += std::exp(double(scores[c]) * scale - largest);
  return largest + std::log(sum);
}

double relation_row(const RelationRowsArgs& a, float* student, const float* teacher, int64_t count) {
  const double student_sum = log_sum_exp(student, count, a.scale);
  const double teacher_sum = log_sum_exp(teacher, count, a.teacher_scale);
  double value = 0.0;
  for (int64_t c = 0; c < count; ++c) {
    const double log_s = double(student[c]) * a.scale - student_sum;
    const double log_t = double(teacher[c]) * a.teacher_scale - teacher_sum;
    const double t = std::exp(log_t);
    if (!(t <= 0.0)) value += t * (log_t - log_s);  // NaN stays
    student[c] = float(a.gradient_scale * a.scale * (std::exp(log_s) - t));
  }
  return value;
}

}  // namespace

void TrainingBackend::state_distance(const StateDistanceArgs& a) {
  parallel_ranges(a.rows, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* g = a.dx != nullptr ? a.dx + row * a.dx_stride : nullptr;
      a.values[row] = 0.0;
      if (a.ids[row] < 0) {
        if (g != nullptr && !a.accumulate) std::fill_n(g, a.columns, 0.0f);
        continue;
      }
      const float* x = a.x + row * a.x_stride;
      const float* teacher = a.teacher + row * a.teacher_stride;
      a.values[row] = a.kind == StateDistance::squared ? squared_distance(x, teacher, a, g)
                                                       : cosine_distance(x, teacher, a, g);
    }
  });
}

void TrainingBackend::relation_rows(const RelationRowsArgs& a) {
  parallel_ranges(a.rows, kRelationsAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* own = a.scores + row * a.stride;
      const int64_t count = a.ids[row] < 0 ? 0 : a.causal ? row + 1 : a.columns;
      a.values[row] = count > 0 ? relation_row(a, own, a.teacher + row * a.teacher_stride, count) : 0.0;
      std::fill(own + count, own + a.columns, 0.0f);
    }
  });
}

void TrainingBackend::state_moments(const StateMomentsArgs& a) {
  for (int64_t row = 0; row < a.rows; ++row) {
    if (a.ids[row] < 0) continue;
    const float* x = a.x + row * a.stride;
    for (int64_t c = 0; c < a.columns; ++c) {
      a.sums[0] += double(x[c]);
      a.sums[1] += double(x[c]) * double(x[c]);
    }
  }
}

void TrainingBackend::add_sum(const AddSumArgs& a) {
  double sum = 0.0;
  for (int64_t i = 0; i < a.count; ++i) sum += a.x[i];
  *a.out += a.factor * sum;
}

void TrainingBackend::add_rows(const AddRowsArgs& a) {
  parallel_ranges(a.rows, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t c = 0; c < a.columns; ++c) a.out[row * a.out_stride + c] += a.x[row * a.x_stride + c];
  });
}

}  // namespace pare
