// engine/backends/cpu/training_activation_body.h: gradients of activations.
#pragma once

#include "engine/tensor/training_backend.h"

namespace pare::cpu::PARE_ISA_NAMESPACE {

// f(x) and f'(x)
struct Slope {
  Vec value, slope;
};

// s = 1 / (1 + exp(-x)), and 1 - s without cancellation. Where s underflows, so does its product with 1 - s.
struct Logistic {
  Vec value, complement;
};

PARE_INLINE Logistic logistic(Vec x) {
  const Vec exponential = exp(zero() - x);
  const Vec s = broadcast(1.0f) / (broadcast(1.0f) + exponential);
  return {s, min_or_second(broadcast(1e38f), exponential) * s};
}

// of x / (1 + exp(-factor x)), with s of factor x:  f' = s (1 + factor x (1 - s))
PARE_INLINE Slope logistic_slope(Vec x, float factor) {
  const Vec argument = x * broadcast(factor);
  const Logistic s = logistic(argument);
  return {x * s.value, s.value * multiply_add(argument, s.complement, broadcast(1.0f))};
}

PARE_INLINE Slope relu_slope(Vec x) {
  const Vec slope = select(less(zero(), x), broadcast(1.0f), zero());
  return {relu(x), select(equal(x, x), slope, broadcast(1.0f))};  // NaN has the slope of what is kept
}

// f' = Phi(x) + x phi(x); the square of x in two parts, as in normal_distribution()
PARE_INLINE Slope gelu_slope(Vec x) {
  const Vec z = min_or_second(broadcast(15.0f), absolute(x));
  const Vec high = bits_and(z, 0xfffff000u);
  const Vec half = broadcast(-0.5f);
  const Vec exponential = exp_with_correction(half * high * high, half * ((z - high) * (z + high)));
  const Vec distribution = normal_distribution(x);
  return {x * distribution, multiply_add(x * broadcast(0.39894228f), exponential, distribution)};
}

// With s of 2 u, u = sqrt(2/pi) (x + 0.044715 x^3):  f' = s + x s (1 - s) 2 u'. Beyond 20 it is 0 or 1, and
// the square of x must not overflow.
PARE_INLINE Slope gelu_tanh_slope(Vec x) {
  const Vec bounded = max_or_second(broadcast(-20.0f), min_or_second(broadcast(20.0f), x));
  const Vec square = bounded * bounded;
  const Logistic s =
      logistic(multiply_add(square * broadcast(0.044715f), bounded, bounded) * broadcast(1.59576912f));
  const Vec inner = multiply_add(square, broadcast(0.21406424f), broadcast(1.59576912f));  // 2 u'
  return {x * s.value, multiply_add(bounded * s.value * s.complement, inner, s.value)};
}

// Calls body(function) with the function x -> Slope that `kind` names.
template <typename Body>
PARE_INLINE void with_slope(Activation kind, Body body) {
  switch (kind) {
    case Activation::identity:
      return body([](Vec x) { return Slope{x, broadcast(1.0f)}; });
    case Activation::relu:
      return body([](Vec x) { return relu_slope(x); });
    case Activation::silu:
      return body([](Vec x) { return logistic_slope(x, 1.0f); });
    case Activation::gelu:
      return body([](Vec x) { return gelu_slope(x); });
    case Activation::gelu_tanh:
      return body([](Vec x) { return gelu_tanh_slope(x); });
    case Activation::quick_gelu:
      return body([](Vec x) { return logistic_slope(x, 1.702f); });
  }
}

static void activation_backward(const ActivationBackwardArgs& a, int64_t begin, int64_t end) {
  with_slope(a.kind, [&](auto function) {
    for (int64_t r = begin; r < end; ++r) {
      map(a.x + r * a.x_stride, a.dout + r * a.dout_stride, a.dx + r * a.dx_stride, a.columns,
          [&](Vec x, Vec dout) { return dout * function(x).slope; });
    }
  });
}

static void gated_activation_backward(const GatedActivationBackwardArgs& a, int64_t begin, int64_t end) {
  with_slope(a.kind, [&](auto function) {
    for (int64_t r = begin; r < end; ++r) {
      const float* gate = a.gate + r * a.gate_stride;
      const float* up = a.up + r * a.up_stride;
      const float* dout = a.dout + r * a.dout_stride;
      float* dgate = a.dgate + r * a.dgate_stride;
      float* dup = a.dup + r * a.dup_stride;
      for_each_piece(a.columns, [&](int64_t c, auto extent) {
        const Slope f = function(load(gate + c, extent));
        const Vec u = load(up + c, extent);  // all loads first: outputs may alias inputs
        const Vec d = load(dout + c, extent);
        store(dgate + c, d * u * f.slope, extent);
        store(dup + c, d * f.value, extent);
      });
    }
  });
}

}  // namespace pare::cpu::PARE_ISA_NAMESPACE
