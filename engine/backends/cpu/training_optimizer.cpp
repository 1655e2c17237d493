#include <algorithm>
#include <cmath>

#include "engine/backends/cpu/training_class.h"

namespace pare::cpu {
namespace {

// Whether element i of a matrix with a mask is kept; without one all are.
template <typename Args>
bool is_kept(const Args& a, int64_t i) {
  if (a.kept == nullptr) return true;
  const int64_t row = i / a.columns, column = i % a.columns;
  return (a.kept[row * a.row_bytes + column / 8] >> (column % 8) & 1) != 0;
}

// Codes are found in float: every backend must find the same ones, and so must whoever stores them.
struct Rounded {
  float quotient;  // w / s
  float nearest;   // rint(w / s)
  float code;      // nearest + zero, not yet within the range
};

Rounded round_weight(float weight, float scale, float zero) {
  const float quotient = weight / scale;
  const float nearest = std::nearbyint(quotient);
  return {quotient, nearest, nearest + zero};
}

int64_t group_count(int64_t columns, int64_t group_width) {
  return (columns + group_width - 1) / group_width;
}

}  // namespace

// m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;  w -= lr decay w;
// w -= lr (m / correction1) / (sqrt(v / correction2) + eps)
void CpuTraining::adamw(const AdamWArgs& a) {
  const double beta1 = double(a.beta1), beta2 = double(a.beta2), lr = double(a.lr);
  for (int64_t i = 0; i < a.count; ++i) {
    if (!is_kept(a, i)) {
      a.w[i] = a.m[i] = a.v[i] = 0.0f;
      continue;
    }
    const double g = double(a.gradient[i]) * double(a.gradient_scale);
    const double m = beta1 * double(a.m[i]) + (1.0 - beta1) * g;
    const double v = beta2 * double(a.v[i]) + (1.0 - beta2) * g * g;
    double w = double(a.w[i]);
    w -= lr * double(a.decay) * w;
    w -= lr * (m / double(a.correction1)) / (std::sqrt(v / double(a.correction2)) + double(a.eps));
    a.m[i] = float(m);
    a.v[i] = float(v);
    a.w[i] = float(w);
  }
}

// momentum = mu momentum + g;  w -= lr decay w;  w -= lr momentum
void CpuTraining::sgd(const SgdArgs& a) {
  const double lr = double(a.lr);
  for (int64_t i = 0; i < a.count; ++i) {
    if (!is_kept(a, i)) {
      a.w[i] = 0.0f;
      if (a.momentum != nullptr) a.momentum[i] = 0.0f;
      continue;
    }
    double step = double(a.gradient[i]) * double(a.gradient_scale);
    if (a.momentum != nullptr) {
      step += double(a.mu) * double(a.momentum[i]);
      a.momentum[i] = float(step);
    }
    double w = double(a.w[i]);
    w -= lr * double(a.decay) * w;
    a.w[i] = float(w - lr * step);
  }
}

double CpuTraining::sum_of_squares(const float* x, int64_t count) {
  double sum = 0.0;
  for (int64_t i = 0; i < count; ++i) sum += double(x[i]) * double(x[i]);
  return sum;
}

// out = s * (clamp(rint(w / s) + zero, low, high) - zero)
void CpuTraining::fake_quantize(const FakeQuantizeArgs& a) {
  const int64_t groups = group_count(a.columns, a.group_width);
  for (int64_t row = 0; row < a.rows; ++row) {
    for (int64_t column = 0; column < a.columns; ++column) {
      const int64_t group = row * groups + column / a.group_width, at = row * a.columns + column;
      const float scale = a.scales[group], zero = a.zeros != nullptr ? a.zeros[group] : 0.0f;
      const float code = std::clamp(round_weight(a.weight[at], scale, zero).code, a.low, a.high);
      a.out[at] = scale * (code - zero);
    }
  }
}

// dweight = dout where low <= rint(w / s) + zero <= high, else 0
// dscales += step_gradient * sum dout * (inside: rint(w / s) - w / s; below: low - zero; above: high - zero)
void CpuTraining::fake_quantize_backward(const FakeQuantizeBackwardArgs& a) {
  const int64_t groups = group_count(a.columns, a.group_width);
  for (int64_t group = 0; group < a.rows * groups; ++group) {
    const int64_t row = group / groups, begin = group % groups * a.group_width;
    const int64_t end = std::min(a.columns, begin + a.group_width);
    const float scale = a.scales[group], zero = a.zeros != nullptr ? a.zeros[group] : 0.0f;
    double sum = 0.0;
    for (int64_t column = begin; column < end; ++column) {
      const int64_t at = row * a.columns + column;
      const Rounded rounded = round_weight(a.weight[at], scale, zero);
      const double dout = double(a.dout[at]);
      const bool is_below = rounded.code<a.low, is_above = rounded.code> a.high;
      if (is_below) {
        sum += dout * (double(a.low) - double(zero));
      } else if (is_above) {
        sum += dout * (double(a.high) - double(zero));
      } else {
        sum += dout * (double(rounded.nearest) - double(rounded.quotient));
      }
      a.dweight[at] = is_below || is_above ? 0.0f : a.dout[at];
    }
    if (a.dscales != nullptr)
      a.dscales[group] = float(double(a.dscales[group]) + double(a.step_gradient) * sum);
  }
}

}  // namespace pare::cpu
