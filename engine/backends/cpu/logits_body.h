// engine/backends/cpu/logits_body.h: losses over rows of logits. One pass over memory: a row is walked in
// pieces that stay in the first-level cache between looking for the maximum and summing the exponentials.
#pragma once

#include <math.h>

#include "engine/tensor/backend.h"

namespace pare::cpu::PARE_ISA_NAMESPACE {

constexpr int64_t kLogitsPiece = 2048;  // columns, 8 KiB

PARE_INLINE float piece_maximum(const float* x, int64_t n) {
  Vec largest[4] = {broadcast(-INFINITY), broadcast(-INFINITY), broadcast(-INFINITY), broadcast(-INFINITY)};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int64_t j = 0; j < 4; ++j) largest[j] = max_or_second(load(x + i + j * kLanes), largest[j]);
  }
  for_each_vector(x + i, n - i, -INFINITY, [&](Vec v) { largest[0] = max_or_second(v, largest[0]); });
  return reduce_max(
      max_or_second(max_or_second(largest[0], largest[1]), max_or_second(largest[2], largest[3])));
}

// sum of exp(x - shift), shift >= x. Four terms are added in float, everything else in double. NaN passes
// through. `ahead` is what comes next: it is fetched meanwhile, since this pass is arithmetic alone.
PARE_INLINE double piece_sum(const float* x, int64_t n, float shift, const float* ahead) {
  const Vec s = broadcast(shift);
  const auto term = [&](int64_t i) { return exp_nonpositive(load(x + i) - s); };
  Wide sums = wide_zero();
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int64_t j = 0; j < 4 * kLanes; j += 16) __builtin_prefetch(ahead + i + j);
    sums = sums + widen((term(i) + term(i + kLanes)) + (term(i + 2 * kLanes) + term(i + 3 * kLanes)));
  }
  for_each_vector(x + i, n - i, -INFINITY, [&](Vec v) { sums = sums + widen(exp_nonpositive(v - s)); });
  return reduce_add(sums);
}

// The first index with x[index] == value, 0 if there is none (a row of NaN).
PARE_INLINE int64_t first_equal(const float* x, int64_t n, float value) {
  for (int64_t i = 0; i < n; ++i) {
    if (x[i] == value) return i;
  }
  return 0;
}

static void cross_entropy(const CrossEntropyArgs& a, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const float* x = a.logits + r * a.stride;
    float largest = -INFINITY;
    int64_t largest_piece = 0;
    double sum = 0.0;  // of exp(x - largest) so far
    for (int64_t c = 0; c < a.columns; c += kLogitsPiece) {
      const int64_t n = a.columns - c < kLogitsPiece ? a.columns - c : kLogitsPiece;
      const float maximum = piece_maximum(x + c, n);
      if (maximum > largest) {
        if (sum != 0.0) sum *= ::exp(double(largest) - double(maximum));
        largest = maximum;
        largest_piece = c;
      }
      // Only -infinity so far: the terms are 0 whatever the shift, and infinity - infinity is not a number.
      const bool is_last = c + 2 * kLogitsPiece > a.columns;
      sum +=
          piece_sum(x + c, n, largest == -INFINITY ? 0.0f : largest, is_last ? x + c : x + c + kLogitsPiece);
    }
    const double log_sum_exp = double(largest) + ::log(sum);
    a.log_sum_exp[r] = log_sum_exp;
    a.nll[r] = a.targets[r] < 0 ? 0.0 : log_sum_exp - double(x[a.targets[r]]);
    const int64_t rest = a.columns - largest_piece;
    const int64_t n = rest < kLogitsPiece ? rest : kLogitsPiece;
    a.best[r] = int32_t(largest_piece + first_equal(x + largest_piece, n, largest));
  }
}

// kl = sum p ((x - y) - (log_sum_exp_p - log_sum_exp_q)), p = exp(x - log_sum_exp_p). The difference is taken
// in double: for close distributions the terms cancel to second order. p = 0 contributes 0 whatever q is.
static void divergence(const DivergenceArgs& a, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const float* x = a.logits_p + r * a.p_stride;
    const float* y = a.logits_q + r * a.q_stride;
    const float shift = float(a.log_sum_exp_p[r]);
    const Vec high = broadcast(shift);
    const Vec low = broadcast(float(a.log_sum_exp_p[r] - double(shift)));
    const Wide offset = wide_broadcast(a.log_sum_exp_p[r] - a.log_sum_exp_q[r]);
    Wide sum = wide_zero();
    const auto accumulate = [&](Vec p_logit, Vec q_logit) {
      const Vec p = exp((p_logit - high) - low);
      const Mask absent = equal(p, zero());
      const Wide ratio =
          (widen(select(absent, zero(), p_logit)) - widen(select(absent, zero(), q_logit))) - offset;
      sum = multiply_add(widen(p), ratio, sum);
    };
    int64_t c = 0;
    for (; c + kLanes <= a.columns; c += kLanes) accumulate(load(x + c), load(y + c));
    const int64_t rest = a.columns - c;
    if (rest > 0) {
      alignas(64) float p_logits[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) p_logits[i] = i < rest ? x[c + i] : -INFINITY;
      accumulate(load(p_logits), load_partial(y + c, rest));
    }
    a.kl[r] = reduce_add(sum);
  }
}

}  // namespace pare::cpu::PARE_ISA_NAMESPACE
