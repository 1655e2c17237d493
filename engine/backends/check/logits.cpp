// softmax, cross_entropy, divergence
#include <algorithm>

#include "engine/backends/check/backend_class.h"
#include "engine/core/assert.h"
#include "engine/tensor/tolerance.h"

namespace pare::check {

void CheckBackend::softmax(const SoftmaxArgs& a) {
  const Matrix x = Matrix::copy_of(a.x, a.rows, a.columns, a.x_stride);
  Matrix want(a.rows, a.columns);
  SoftmaxArgs oracle = a;
  oracle.out = want.data();
  oracle.out_stride = a.columns;
  oracle_.softmax(oracle);
  tested_.softmax(a);
  std::vector<double> largest;
  for (int64_t r = 0; r < a.rows; ++r)
    largest.push_back(double(*std::max_element(x.row(r), x.row(r) + a.columns)));
  compare(subject("softmax", "f32"), a.out, a.out_stride, want, [&](int64_t r, int64_t c) {
    return tolerance::softmax(a.columns, double(want.at(r, c)), largest[size_t(r)] - double(x.at(r, c)), 0.0);
  });
}

void CheckBackend::cross_entropy(const CrossEntropyArgs& a) {
  const auto rows = size_t(a.rows);
  std::vector<double> log_sum_exp(rows), nll(rows);
  std::vector<int32_t> best(rows);
  CrossEntropyArgs oracle = a;
  oracle.log_sum_exp = log_sum_exp.data();
  oracle.nll = nll.data();
  oracle.best = best.data();
  oracle_.cross_entropy(oracle);
  tested_.cross_entropy(a);
  const double bound = tolerance::log_sum_exp(a.columns);
  Comparison sums(subject("cross_entropy log_sum_exp", "f32"), a.rows, 1);
  Comparison losses(subject("cross_entropy nll", "f32"), a.rows, 1);
  Comparison ids(subject("cross_entropy best", "f32"), a.rows, 1);
  for (int64_t r = 0; r < a.rows; ++r) {
    const auto row = size_t(r);
    sums.element(r, 0, a.log_sum_exp[r], log_sum_exp[row], bound);
    losses.element(r, 0, a.nll[r], nll[row], a.targets[r] < 0 ? 0.0 : bound);
    ids.element(r, 0, double(a.best[r]), double(best[row]), 0.0);
  }
  sums.finish();
  losses.finish();
  ids.finish();
}

void CheckBackend::divergence(const DivergenceArgs& a) {
  std::vector<double> kl(size_t(a.rows));
  DivergenceArgs oracle = a;
  oracle.kl = kl.data();
  oracle_.divergence(oracle);
  tested_.divergence(a);
  Comparison comparison(subject("divergence", "f32"), a.rows, 1);
  for (int64_t r = 0; r < a.rows; ++r) {
    // every term has the error of its probability and of the difference of two logarithms
    double bound = tolerance::kUnderflow;
    for (int64_t v = 0; v < a.columns; ++v) {
      const double log_p = double(a.logits_p[r * a.p_stride + v]) - a.log_sum_exp_p[r];
      const double log_q = double(a.logits_q[r * a.q_stride + v]) - a.log_sum_exp_q[r];
      const double magnitude = std::abs(log_p) + std::abs(log_q);
      bound += std::exp(log_p) * (std::abs(log_p - log_q) * tolerance::exponential(std::abs(log_p)) +
                                  4.0 * tolerance::kUnitRoundoff * magnitude);
    }
    comparison.element(r, 0, a.kl[r], kl[size_t(r)], bound);
  }
  comparison.finish();
}

}  // namespace pare::check
