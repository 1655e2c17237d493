// engine/backends/cpu/math_body.h: exp, tanh and the normal distribution, within 2 ulp where the result is
// normal.
//
// Polynomials are minimax in relative error over the stated interval, fitted by iterated weighted least
// squares in double and rounded to float. NaN passes through; infinities give their limits.
#pragma once

#include <cstdint>

// Included by isa_*.cpp after the vec header of the level.

namespace pare::cpu::PARE_ISA_NAMESPACE {

// exp(x + correction), |correction| small: x = n ln 2 + r, |r| <= ln 2 / 2, exp(r) = 1 + r + r^2 P(r), error
// 4e-9. ln 2 is split so that n * high is exact without a fused multiply-add.
PARE_INLINE Vec exp_with_correction(Vec x, Vec correction) {
  const Vec bounded = max_or_second(broadcast(-104.0f), min_or_second(broadcast(89.0f), x));
  const Vec n = round_even(bounded * broadcast(1.44269504f));
  Vec r = subtract_product(n, broadcast(0.693359375f), bounded);
  r = subtract_product(n, broadcast(-2.12194440e-4f), r) + correction;
  Vec p = broadcast(1.3813881e-3f);
  p = multiply_add(p, r, broadcast(8.3690630e-3f));
  p = multiply_add(p, r, broadcast(4.16684225e-2f));
  p = multiply_add(p, r, broadcast(1.66665182e-1f));
  p = multiply_add(p, r, broadcast(4.99999940e-1f));
  return scale_power2(multiply_add(r * r, p, r) + broadcast(1.0f), n);
}

PARE_INLINE Vec exp(Vec x) {
  return exp_with_correction(x, zero());
}

// 2^f = 1 + f P(f), |f| <= 1/2, error 3e-9
PARE_INLINE Vec exp2_fraction(Vec f) {
  Vec p = broadcast(1.53528412e-4f);
  p = multiply_add(p, f, broadcast(1.33995211e-3f));
  p = multiply_add(p, f, broadcast(9.61844344e-3f));
  p = multiply_add(p, f, broadcast(5.55033088e-2f));
  p = multiply_add(p, f, broadcast(2.40226477e-1f));
  p = multiply_add(p, f, broadcast(6.93147182e-1f));
  return multiply_add(p, f, broadcast(1.0f));
}

// 2^x for x <= 0 (attention)
PARE_INLINE Vec exp2_nonpositive(Vec x) {
  const Vec bounded = max_or_second(broadcast(-152.0f), x);
  const Vec n = round_even(bounded);
  const Vec f = bounded - n;
  return scale_power2(exp2_fraction(f), n);
}

// exp(x) for x <= 0 (sums of many terms), cheaper where multiply_add rounds once: x log2(e) = n + f, with f
// from the unrounded product; then as above.
PARE_INLINE Vec exp_nonpositive(Vec x) {
  if constexpr (!kFuses) return exp(x);
  const Vec bounded = max_or_second(broadcast(-105.0f), x);
  const Vec n = round_even(bounded * broadcast(1.44269502f));
  Vec f = multiply_add(bounded, broadcast(1.44269502f), zero() - n);
  f = multiply_add(bounded, broadcast(1.92596299e-8f), f);
  return scale_power2(exp2_fraction(f), n);
}

// The logarithm of a normal x > 0: x = 2^n f, f within sqrt(2) of 1, s = (f - 1) / (f + 1),
// log f = 2 (s + s^3 / 3 + ... + s^9 / 9), error 3e-9.
PARE_INLINE Vec log(Vec x) {
  Vec n = exponent(x);
  Vec f = scale_power2(x, zero() - n);
  const Mask is_large = less(broadcast(1.41421356f), f);
  f = select(is_large, f * broadcast(0.5f), f);
  n = select(is_large, n + broadcast(1.0f), n);
  const Vec s = (f - broadcast(1.0f)) / (f + broadcast(1.0f));
  const Vec square = s * s;
  Vec p = broadcast(2.0f / 9.0f);
  p = multiply_add(p, square, broadcast(2.0f / 7.0f));
  p = multiply_add(p, square, broadcast(2.0f / 5.0f));
  p = multiply_add(p, square, broadcast(2.0f / 3.0f));
  const Vec fraction = multiply_add(p * square, s, s + s);
  return multiply_add(n, broadcast(0.693359375f), multiply_add(n, broadcast(-2.12194440e-4f), fraction));
}

PARE_INLINE Vec absolute(Vec x) {
  return bits_and(x, 0x7fffffffu);
}

// |x| < 0.625: x + x^3 P(x^2), error 5e-9; otherwise 1 - 2 / (exp(2 |x|) + 1) with the sign of x.
PARE_INLINE Vec tanh(Vec x) {
  const Vec magnitude = absolute(x);
  const Vec square = x * x;
  Vec p = broadcast(-5.70498733e-3f);
  p = multiply_add(p, square, broadcast(2.06390880e-2f));
  p = multiply_add(p, square, broadcast(-5.37397154e-2f));
  p = multiply_add(p, square, broadcast(1.33314416e-1f));
  p = multiply_add(p, square, broadcast(-3.33332807e-1f));
  const Vec small = multiply_add(x * square, p, x);
  const Vec bounded = min_or_second(broadcast(10.0f), magnitude);
  const Vec large = broadcast(1.0f) - broadcast(2.0f) / (exp(bounded + bounded) + broadcast(1.0f));
  return select(less(magnitude, broadcast(0.625f)), small, bits_or(large, bits_and(x, 0x80000000u)));
}

// Phi(x) = (1 + erf(x / sqrt 2)) / 2 with small *relative* error in the lower tail, where the erf form
// cancels.
//   Phi(-z) = exp(-z^2 / 2) t Q(t), t = 1 / (1 + z / 4), error 1e-8 for 0 <= z <= 15.
// z^2 is split into an exact part and a correction: its rounding error would be multiplied by z^2 / 2.
PARE_INLINE Vec normal_distribution(Vec x) {
  const Vec z = min_or_second(broadcast(15.0f), absolute(x));
  const Vec high = bits_and(z, 0xfffff000u);
  const Vec half = broadcast(-0.5f);
  const Vec exponential = exp_with_correction(half * high * high, half * ((z - high) * (z + high)));
  const Vec t = broadcast(1.0f) / multiply_add(z, broadcast(0.25f), broadcast(1.0f));
  Vec q = broadcast(1.71771478e-2f);
  q = multiply_add(q, t, broadcast(-6.61189854e-2f));
  q = multiply_add(q, t, broadcast(5.96925504e-2f));
  q = multiply_add(q, t, broadcast(1.73855480e-2f));
  q = multiply_add(q, t, broadcast(2.22123545e-2f));
  q = multiply_add(q, t, broadcast(8.13678950e-2f));
  q = multiply_add(q, t, broadcast(7.39025325e-2f));
  q = multiply_add(q, t, broadcast(9.50896367e-2f));
  q = multiply_add(q, t, broadcast(9.95463431e-2f));
  q = multiply_add(q, t, broadcast(9.97449905e-2f));
  const Vec tail = q * t * exponential;
  return select(less(x, zero()), tail, broadcast(1.0f) - tail);
}

// How much of a vector there is: all of it, or its first `count` lanes (the others are loaded as zero).
struct Whole {};
struct Rest {
  int64_t count;
};
PARE_INLINE Vec load(const float* p, Whole) {
  return load(p);
}
PARE_INLINE Vec load(const float* p, Rest rest) {
  return load_partial(p, rest.count);
}
PARE_INLINE void store(float* p, Vec a, Whole) {
  store(p, a);
}
PARE_INLINE void store(float* p, Vec a, Rest rest) {
  store_partial(p, a, rest.count);
}

// body(i, extent) for each vector of a row of n: for functions of more rows than map() takes.
template <typename Body>
PARE_INLINE void for_each_piece(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, Whole{});
  if (i < n) body(i, Rest{n - i});
}

// out[i] = function(x[i]); x and out may be the same.
template <typename Function>
PARE_INLINE void map(const float* x, float* out, int64_t n, Function function) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, function(load(x + i)));
  if (i < n) store_partial(out + i, function(load_partial(x + i, n - i)), n - i);
}

// out[i] = function(x[i], y[i])
template <typename Function>
PARE_INLINE void map(const float* x, const float* y, float* out, int64_t n, Function function) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, function(load(x + i), load(y + i)));
  if (i < n) {
    store_partial(out + i, function(load_partial(x + i, n - i), load_partial(y + i, n - i)), n - i);
  }
}

// accumulate(vector) for each vector of x; the lanes beyond the end hold `padding`.
template <typename Function>
PARE_INLINE void for_each_vector(const float* x, int64_t n, float padding, Function accumulate) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) accumulate(load(x + i));
  if (i < n) {
    alignas(64) float rest[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) rest[j] = i + j < n ? x[i + j] : padding;
    accumulate(load(rest));
  }
}

}  // namespace pare::cpu::PARE_ISA_NAMESPACE
