#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/backends/reference/backend_class.h"

namespace pare::reference {
namespace {

double evaluate(Activation kind, double x) {
  switch (kind) {
    case Activation::identity:
      return x;
    case Activation::relu:
      return std::max(x, 0.0);
    case Activation::silu:
      return x / (1.0 + std::exp(-x));
    case Activation::gelu:
      return 0.5 * x * std::erfc(-x / std::numbers::sqrt2);  // 1 + erf(y) = erfc(-y)
    case Activation::gelu_tanh:
      return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Activation::quick_gelu:
      return x / (1.0 + std::exp(-1.702 * x));
  }
  return x;
}

}  // namespace

// out = f(x)
void ReferenceBackend::activation(const ActivationArgs& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    for (int64_t c = 0; c < a.columns; ++c) {
      a.out[r * a.out_stride + c] = float(evaluate(a.kind, double(a.x[r * a.x_stride + c])));
    }
  }
}

// out = f(gate) * up
void ReferenceBackend::gated_activation(const GatedActivationArgs& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    for (int64_t c = 0; c < a.columns; ++c) {
      const double gate = evaluate(a.kind, double(a.gate[r * a.gate_stride + c]));
      a.out[r * a.out_stride + c] = float(gate * double(a.up[r * a.up_stride + c]));
    }
  }
}

// out = x + y
void ReferenceBackend::add(const AddArgs& a) {
  for (int64_t i = 0; i < a.count; ++i) a.out[i] = float(double(a.x[i]) + double(a.y[i]));
}

// x = cap * tanh(x / cap)
void ReferenceBackend::softcap(const SoftcapArgs& a) {
  const double cap = double(a.cap);
  for (int64_t i = 0; i < a.count; ++i) a.x[i] = float(cap * std::tanh(double(a.x[i]) / cap));
}

}  // namespace pare::reference
