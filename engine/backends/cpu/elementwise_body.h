// engine/backends/cpu/elementwise_body.h: activations and other operations on single elements.
#pragma once

#include "engine/tensor/backend.h"

namespace pare::cpu::PARE_ISA_NAMESPACE {

PARE_INLINE Vec logistic_product(Vec x, Vec argument) {  // x / (1 + exp(-argument))
  return x / (broadcast(1.0f) + exp(zero() - argument));
}

PARE_INLINE Vec relu(Vec x) {
  return select(less(x, zero()), zero(), x);
}  // NaN stays NaN
PARE_INLINE Vec silu(Vec x) {
  return logistic_product(x, x);
}
PARE_INLINE Vec gelu(Vec x) {
  return x * normal_distribution(x);
}
PARE_INLINE Vec quick_gelu(Vec x) {
  return logistic_product(x, x * broadcast(1.702f));
}
// (1 + tanh u) / 2 = 1 / (1 + exp(-2 u)), without the cancellation at negative u; 2 sqrt(2 / pi) = 1.5957691
PARE_INLINE Vec gelu_tanh(Vec x) {
  const Vec cubic = multiply_add(x * x * broadcast(0.044715f), x, x);
  return logistic_product(x, cubic * broadcast(1.59576912f));
}

// Calls body(function) with the function that `kind` names.
template <typename Body>
PARE_INLINE void with_activation(Activation kind, Body body) {
  switch (kind) {
    case Activation::identity:
      return body([](Vec x) { return x; });
    case Activation::relu:
      return body([](Vec x) { return relu(x); });
    case Activation::silu:
      return body([](Vec x) { return silu(x); });
    case Activation::gelu:
      return body([](Vec x) { return gelu(x); });
    case Activation::gelu_tanh:
      return body([](Vec x) { return gelu_tanh(x); });
    case Activation::quick_gelu:
      return body([](Vec x) { return quick_gelu(x); });
  }
}

static void activation(const ActivationArgs& a, int64_t begin, int64_t end) {
  with_activation(a.kind, [&](auto function) {
    for (int64_t r = begin; r < end; ++r)
      map(a.x + r * a.x_stride, a.out + r * a.out_stride, a.columns, function);
  });
}

static void gated_activation(const GatedActivationArgs& a, int64_t begin, int64_t end) {
  with_activation(a.kind, [&](auto function) {
    for (int64_t r = begin; r < end; ++r) {
      map(a.gate + r * a.gate_stride, a.up + r * a.up_stride, a.out + r * a.out_stride, a.columns,
          [&](Vec gate, Vec up) { return function(gate) * up; });
    }
  });
}

static void add(const AddArgs& a, int64_t begin, int64_t end) {
  map(a.x + begin, a.y + begin, a.out + begin, end - begin, [](Vec x, Vec y) { return x + y; });
}

static void softcap(const SoftcapArgs& a, int64_t begin, int64_t end) {
  const Vec cap = broadcast(a.cap);
  map(a.x + begin, a.x + begin, end - begin, [&](Vec x) { return cap * tanh(x / cap); });
}

static void scale_row(const float* x, float scale, bool accumulate, float* out, int64_t count) {
  const Vec factor = broadcast(scale);
  if (accumulate) {
    map(x, out, out, count, [&](Vec value, Vec sum) { return value * factor + sum; });
  } else {
    map(x, out, count, [&](Vec value) { return value * factor; });
  }
}

static void exp_all(const float* x, float* out, int64_t count) {
  map(x, out, count, [](Vec v) { return exp(v); });
}
static void exp_nonpositive_all(const float* x, float* out, int64_t count) {
  map(x, out, count, [](Vec v) { return exp_nonpositive(v); });
}
static void exp2_nonpositive_all(const float* x, float* out, int64_t count) {
  map(x, out, count, [](Vec v) { return exp2_nonpositive(v); });
}
static void log_all(const float* x, float* out, int64_t count) {
  map(x, out, count, [](Vec v) { return log(v); });
}
static void tanh_all(const float* x, float* out, int64_t count) {
  map(x, out, count, [](Vec v) { return tanh(v); });
}
static void normal_distribution_all(const float* x, float* out, int64_t count) {
  map(x, out, count, [](Vec v) { return normal_distribution(v); });
}

}  // namespace pare::cpu::PARE_ISA_NAMESPACE
