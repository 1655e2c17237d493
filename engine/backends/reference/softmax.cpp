#include <algorithm>
#include <cmath>

#include "engine/backends/reference/backend_class.h"

namespace pare::reference {
namespace {

// log sum_c exp(x[c]), shifted by the largest value so that nothing overflows
double log_sum_exp(const float* x, int64_t columns) {
  const double largest = double(*std::max_element(x, x + columns));
  double sum = 0.0;
  for (int64_t c = 0; c < columns; ++c) sum += std::exp(double(x[c]) - largest);
  return largest + std::log(sum);
}

}  // namespace

// out[r, c] = exp(x[r, c] - max) / sum_c exp(x[r, c] - max)
void ReferenceBackend::softmax(const SoftmaxArgs& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    const float* x = a.x + r * a.x_stride;
    float* out = a.out + r * a.out_stride;
    const double largest = double(*std::max_element(x, x + a.columns));
    double sum = 0.0;
    for (int64_t c = 0; c < a.columns; ++c) sum += std::exp(double(x[c]) - largest);
    for (int64_t c = 0; c < a.columns; ++c) out[c] = float(std::exp(double(x[c]) - largest) / sum);
  }
}

// nll = log sum exp(logits) - logits[target]; best = smallest id of the largest logit
void ReferenceBackend::cross_entropy(const CrossEntropyArgs& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    const float* logits = a.logits + r * a.stride;
    const int32_t target = a.targets[r];
    a.log_sum_exp[r] = log_sum_exp(logits, a.columns);
    a.nll[r] = target < 0 ? 0.0 : a.log_sum_exp[r] - double(logits[target]);
    a.best[r] = int32_t(std::max_element(logits, logits + a.columns) - logits);
  }
}

// kl = sum_v p_v (log p_v - log q_v)
void ReferenceBackend::divergence(const DivergenceArgs& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    const float* logits_p = a.logits_p + r * a.p_stride;
    const float* logits_q = a.logits_q + r * a.q_stride;
    double sum = 0.0;
    for (int64_t v = 0; v < a.columns; ++v) {
      const double log_p = double(logits_p[v]) - a.log_sum_exp_p[r];
      const double log_q = double(logits_q[v]) - a.log_sum_exp_q[r];
      sum += std::exp(log_p) * (log_p - log_q);
    }
    a.kl[r] = sum;
  }
}

}  // namespace pare::reference
