// engine/backends/cpu/loss_body.h: the loss of rows of logits, and its gradient in their place.
//
// First the largest logit and the sum of exponentials of both sides, in pieces as logits_body.h walks them;
// then, from the second-level cache, losses and gradients:
//   g = A (p_s - 1_y) + B d,   A = alpha scale,   B = (1 - alpha) scale (temperature or its inverse)
// d is p_s - p_t for the forward KL; else slope - p_s sum(slope) of terms that loss_term() makes.
// Probabilities are e^((x - largest) / temperature) / sum, the very numbers that the sum was made of.
#pragma once

#include <math.h>

#include "engine/tensor/training_backend.h"

namespace pare::cpu::PARE_ISA_NAMESPACE {

// Sums of e^(x - largest) and of e^((x - largest) / temperature).
struct RowSums {
  float largest;
  double plain, tempered;
};

PARE_INLINE double tempered_sum(const float* x, int64_t n, float shift, float inverse_temperature) {
  const Vec s = broadcast(shift), factor = broadcast(inverse_temperature);
  Wide sums[2] = {wide_zero(), wide_zero()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    const auto term = [&](int64_t j) { return exp_nonpositive((load(x + i + j * kLanes) - s) * factor); };
    sums[0] = sums[0] + widen((term(0) + term(1)) + (term(2) + term(3)));
  }
  for_each_vector(x + i, n - i, -INFINITY,
                  [&](Vec v) { sums[1] = sums[1] + widen(exp_nonpositive((v - s) * factor)); });
  return reduce_add(sums[0] + sums[1]);
}

// Either sum may not be wanted; at temperature 1 they are the same.
static RowSums row_sums(const float* x, int64_t n, float temperature, bool wants_plain, bool wants_tempered) {
  const float inverse = 1.0f / temperature;
  const bool sums_plain = wants_plain || temperature == 1.0f;
  const bool sums_tempered = wants_tempered && temperature != 1.0f;
  RowSums r{-INFINITY, 0.0, 0.0};
  for (int64_t c = 0; c < n; c += kLogitsPiece) {
    const int64_t count = n - c < kLogitsPiece ? n - c : kLogitsPiece;
    const float maximum = piece_maximum(x + c, count);
    if (maximum > r.largest) {
      const double fall = double(r.largest) - double(maximum);
      if (r.plain != 0.0) r.plain *= ::exp(fall);
      if (r.tempered != 0.0) r.tempered *= ::exp(fall * double(inverse));
      r.largest = maximum;
    }
    const float shift = r.largest == -INFINITY ? 0.0f : r.largest;
    const bool is_last = c + 2 * kLogitsPiece > n;
    if (sums_plain) r.plain += piece_sum(x + c, count, shift, is_last ? x + c : x + c + kLogitsPiece);
    if (sums_tempered) r.tempered += tempered_sum(x + c, count, shift, inverse);
  }
  if (!sums_tempered) r.tempered = r.plain;
  return r;
}

// p = e^((x - largest) factor) * share
struct Probability {
  Vec largest, factor, share;
  double log_sum;  // of what p is divided by

  PARE_INLINE Vec of(Vec x) const { return exp_nonpositive((x - largest) * factor) * share; }
};

PARE_INLINE Probability probability_of(float largest, double sum, float inverse_temperature) {
  return {broadcast(largest), broadcast(inverse_temperature), broadcast(float(1.0 / sum)), ::log(sum)};
}

// What all columns of a row share.
struct LossFactors {
  float plain, tempered;  // A and B above
  Vec inverse_cap;
  bool has_cap;

  PARE_INLINE Vec capped(Vec gradient, Vec z) const {
    if (!has_cap) return gradient;
    const Vec share = z * inverse_cap;
    return gradient * subtract_product(share, share, broadcast(1.0f));
  }
  float capped(float gradient, float z, float cap) const {
    return has_cap ? gradient * (1.0f - (z / cap) * (z / cap)) : gradient;
  }
};

PARE_INLINE LossFactors loss_factors(const LossRowsArgs& a) {
  const bool has_divergence = a.kind != Divergence::none;
  const double temperature = double(a.temperature), scale = double(a.gradient_scale);
  const double factor = a.squares_temperature ? temperature : 1.0 / temperature;
  const bool has_cap = a.softcap > 0.0f;
  return {float(double(a.alpha) * scale),
          has_divergence ? float((1.0 - double(a.alpha)) * factor * scale) : 0.0f,
          broadcast(has_cap ? 1.0f / a.softcap : 0.0f), has_cap};
}

// out[i] = function(x[i], y[i]); the lanes beyond the end are -infinity on both sides.
template <typename Function>
PARE_INLINE void map_logits(const float* x, const float* y, float* out, int64_t n, Function function) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, function(load(x + i), load(y + i)));
  if (i == n) return;
  alignas(64) float rest_x[kLanes];
  alignas(64) float rest_y[kLanes];
  for (int64_t j = 0; j < kLanes; ++j) {
    rest_x[j] = i + j < n ? x[i + j] : -INFINITY;
    rest_y[j] = i + j < n ? y[i + j] : -INFINITY;
  }
  store_partial(out + i, function(load(rest_x), load(rest_y)), n - i);
}

// The gradient of cross-entropy, and `outside` times p_s at the temperature (all that a teacher says of ids
// that it does not know). The target itself is left to the caller.
static void student_gradient(const LossRowsArgs& a, const RowSums& sums, const LossFactors& f, float outside,
                             float* z) {
  const Probability plain = probability_of(sums.largest, sums.plain, 1.0f);
  if (outside == 0.0f || a.temperature == 1.0f) {
    const Vec factor = broadcast(f.plain + outside);
    map(z, z, a.real_columns, [&](Vec x) { return f.capped(factor * plain.of(x), x); });
    return;
  }
  const Probability tempered = probability_of(sums.largest, sums.tempered, 1.0f / a.temperature);
  const Vec of_plain = broadcast(f.plain), of_tempered = broadcast(outside);
  map(z, z, a.real_columns,
      [&](Vec x) { return f.capped(multiply_add(of_plain, plain.of(x), of_tempered * tempered.of(x)), x); });
}

// Gradient and value of the forward KL. KL = sum p_t ((t - z) / temperature - offset) with the offset's
// rounding taken out again: sum p_t = 1.
template <bool kHasPlain>
static double forward_kl(const RowSums& student, const RowSums& teacher, const LossFactors& f, int64_t n,
                         float inverse_temperature, const float* t, float* z) {
  const Probability plain = probability_of(student.largest, student.plain, 1.0f);
  const Probability p_s = probability_of(student.largest, student.tempered, inverse_temperature);
  const Probability p_t = probability_of(teacher.largest, teacher.tempered, inverse_temperature);
  const double offset = (double(teacher.largest) - double(student.largest)) * double(inverse_temperature) +
                        p_t.log_sum - p_s.log_sum;
  const Vec shift = broadcast(float(offset)), of_plain = broadcast(f.plain),
            of_tempered = broadcast(f.tempered);
  Wide sum = wide_zero();
  map_logits(z, t, z, n, [&](Vec x, Vec y) {
    const Vec p = p_t.of(y);
    const Vec term = p * ((y - x) * p_s.factor - shift);
    sum = sum + widen(select(equal(p, zero()), zero(), term));  // p = 0 contributes nothing, whatever p_s is
    const Vec difference = of_tempered * (p_s.of(x) - p);
    if constexpr (!kHasPlain) return f.capped(difference, x);
    return f.capped(multiply_add(of_plain, plain.of(x), difference), x);
  });
  return reduce_add(sum) - (offset - double(float(offset)));
}

// One outcome's part of a divergence, and p_s times the derivative by p_s.
struct VectorTerm {
  Vec value, slope;
};

template <Divergence kKind>
PARE_INLINE VectorTerm loss_term(Vec p_t, Vec p_s, Vec log_ratio,
                                 float beta) {  // log_ratio = log p_s - log p_t
  if constexpr (kKind == Divergence::reverse_kl) {
    const Vec value = select(equal(p_s, zero()), zero(), p_s * log_ratio);
    return {value, value};
  } else if constexpr (kKind == Divergence::jensen_shannon) {
    const Vec of_t = broadcast(beta), of_s = broadcast(1.0f - beta);
    const Vec mean = multiply_add(of_t, p_t, of_s * p_s);
    // Below the smallest normal number there is nothing to add; 0 / 0 is not above it either.
    const auto part = [&](Vec p) {
      const Vec share = p / mean;
      return select(less(broadcast(1.2e-38f), share), p * log(share), zero());
    };
    const Vec student = of_s * part(p_s);
    return {multiply_add(of_t, part(p_t), student), student};
  } else {
    const Vec half = broadcast(0.5f), difference = p_s - p_t, size = absolute(difference);
    const Vec sign = select(less(p_t, p_s), half, zero() - half);
    const Mask is_apart = less(broadcast(kSameProbability) * p_t, size);
    return {half * size, select(is_apart, sign * p_s, zero())};
  }
}

template <Divergence kKind>
static double other_divergence(const LossRowsArgs& a, const RowSums& student, const RowSums& teacher,
                               const LossFactors& f, const float* t, float* z) {
  const float inverse = 1.0f / a.temperature;
  const Probability plain = probability_of(student.largest, student.plain, 1.0f);
  const Probability p_s = probability_of(student.largest, student.tempered, inverse);
  const Probability p_t = probability_of(teacher.largest, teacher.tempered, inverse);
  const double offset =
      (double(teacher.largest) - double(student.largest)) * double(inverse) + p_t.log_sum - p_s.log_sum;
  const Vec shift = broadcast(float(offset));
  const auto term = [&](Vec x, Vec y, Vec student_p) {
    return loss_term<kKind>(p_t.of(y), student_p, (x - y) * p_s.factor + shift, a.beta);
  };
  Wide values = wide_zero(), slopes = wide_zero();
  map_logits(z, t, z, a.real_columns, [&](Vec x, Vec y) {
    const VectorTerm part = term(x, y, p_s.of(x));
    values = values + widen(part.value);
    slopes = slopes + widen(part.slope);
    return x;
  });
  const Vec mean = broadcast(float(reduce_add(slopes)));
  const Vec of_plain = broadcast(f.plain), of_tempered = broadcast(f.tempered);
  map_logits(z, t, z, a.real_columns, [&](Vec x, Vec y) {
    const Vec p = p_s.of(x);
    const Vec gradient = of_tempered * subtract_product(p, mean, term(x, y, p).slope);
    return f.capped(multiply_add(of_plain, plain.of(x), gradient), x);
  });
  return reduce_add(values);
}

// Gradient of everything but the target's 1, and value, with a teacher of logits.
static double divergence_of_logits(const LossRowsArgs& a, const RowSums& student, const LossFactors& f,
                                   const float* t, float* z) {
  const RowSums teacher = row_sums(t, a.real_columns, a.temperature, false, true);
  switch (a.kind) {
    case Divergence::reverse_kl:
      return other_divergence<Divergence::reverse_kl>(a, student, teacher, f, t, z);
    case Divergence::jensen_shannon:
      return other_divergence<Divergence::jensen_shannon>(a, student, teacher, f, t, z);
    case Divergence::total_variation:
      return other_divergence<Divergence::total_variation>(a, student, teacher, f, t, z);
    default:
      break;
  }
  const float inverse = 1.0f / a.temperature;
  if (a.alpha == 0.0f) return forward_kl<false>(student, teacher, f, a.real_columns, inverse, t, z);
  return forward_kl<true>(student, teacher, f, a.real_columns, inverse, t, z);
}

}  // namespace pare::cpu::PARE_ISA_NAMESPACE
