#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "engine/backends/cpu/training_class.h"

namespace pare::cpu {
namespace {

constexpr int64_t kStripe = 256;  // channels whose sums over tokens are kept at a time
using Sums = std::array<double, size_t{kStripe}>;

// f(x) and f'(x)
struct Slope {
  double value, slope;
};

Slope logistic_slope(double x, double factor) {  // of x / (1 + exp(-factor x))
  const double s = 1.0 / (1.0 + std::exp(-factor * x));
  return {x * s, s * (1.0 + factor * x * (1.0 - s))};
}

Slope gelu_slope(double x) {
  const double distribution = 0.5 * std::erfc(-x / std::numbers::sqrt2);
  const double density = std::exp(-0.5 * x * x) / std::sqrt(2.0 * std::numbers::pi);
  return {x * distribution, distribution + x * density};
}

Slope gelu_tanh_slope(double x) {
  const double root = std::sqrt(2.0 / std::numbers::pi);
  const double t = std::tanh(root * (x + 0.044715 * x * x * x));
  const double inner = root * (1.0 + 3.0 * 0.044715 * x * x);
  return {0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner};
}

Slope slope_at(Activation kind, double x) {
  switch (kind) {
    case Activation::identity:
      break;
    case Activation::relu:
      return {std::max(x, 0.0), x <= 0.0 ? 0.0 : 1.0};
    case Activation::silu:
      return logistic_slope(x, 1.0);
    case Activation::gelu:
      return gelu_slope(x);
    case Activation::gelu_tanh:
      return gelu_tanh_slope(x);
    case Activation::quick_gelu:
      return logistic_slope(x, 1.702);
  }
  return {x, 1.0};
}

// Of one row.
struct Moments {
  double mean, inverse;  // inverse = 1 / sqrt(second moment about `mean` + eps)
};

Moments moments_about(double mean, const float* x, int64_t channels, double eps) {
  double squares = 0.0;
  for (int64_t c = 0; c < channels; ++c) squares += (double(x[c]) - mean) * (double(x[c]) - mean);
  return {mean, 1.0 / std::sqrt(squares / double(channels) + eps)};
}

Moments rms_moments(const RmsNormBackwardArgs& a, int64_t t) {
  return moments_about(0.0, a.x + t * a.x_stride, a.channels, double(a.eps));
}

Moments layer_moments(const LayerNormBackwardArgs& a, int64_t t) {
  const float* x = a.x + t * a.x_stride;
  double sum = 0.0;
  for (int64_t c = 0; c < a.channels; ++c) sum += double(x[c]);
  return moments_about(sum / double(a.channels), x, a.channels, double(a.eps));
}

// into[c] += sum_t term(t, c), in double, the channels in stripes so that nothing is allocated. prepare(t)
// comes before the terms of a token.
template <typename Prepare, typename Term>
void add_over_tokens(int64_t tokens, int64_t channels, float* into, Prepare prepare, Term term) {
  if (into == nullptr) return;
  for (int64_t begin = 0; begin < channels; begin += kStripe) {
    const int64_t end = std::min(channels, begin + kStripe);
    Sums sums{};
    for (int64_t t = 0; t < tokens; ++t) {
      const auto prepared = prepare(t);
      for (int64_t c = begin; c < end; ++c) sums[size_t(c - begin)] += term(prepared, t, c);
    }
    for (int64_t c = begin; c < end; ++c) into[c] = float(double(into[c]) + sums[size_t(c - begin)]);
  }
}

}  // namespace

// Gradients of parameters come first: dx may alias dout.
//   dgain[c] += sum_t dout x r;   dx (+)= r u - x r^3 / channels * sum(u x), u = dout g
void CpuTraining::rms_norm_backward(const RmsNormBackwardArgs& a) {
  add_over_tokens(
      a.tokens, a.channels, a.dgain, [&](int64_t t) { return rms_moments(a, t); },
      [&](const Moments& row, int64_t t, int64_t c) {
        return double(a.dout[t * a.dout_stride + c]) * double(a.x[t * a.x_stride + c]) * row.inverse;
      });
  const auto gain = [&](int64_t c) { return double(a.gain[c]) + (a.gain_plus_one ? 1.0 : 0.0); };
  for (int64_t t = 0; t < a.tokens; ++t) {
    const float* x = a.x + t * a.x_stride;
    const float* dout = a.dout + t * a.dout_stride;
    float* dx = a.dx + t * a.dx_stride;
    const double r = rms_moments(a, t).inverse;
    double product = 0.0;
    for (int64_t c = 0; c < a.channels; ++c) product += double(dout[c]) * gain(c) * double(x[c]);
    const double factor = r * r * r / double(a.channels) * product;
    for (int64_t c = 0; c < a.channels; ++c) {
      const double gradient = r * double(dout[c]) * gain(c) - double(x[c]) * factor;
      dx[c] = float(a.accumulate ? double(dx[c]) + gradient : gradient);
    }
  }
}

//   dgain += sum_t dout n;   dbias += sum_t dout;   dx (+)= r (u - mean(u) - n mean(u n)), n = (x - mean) r
void CpuTraining::layer_norm_backward(const LayerNormBackwardArgs& a) {
  add_over_tokens(
      a.tokens, a.channels, a.dgain, [&](int64_t t) { return layer_moments(a, t); },
      [&](const Moments& row, int64_t t, int64_t c) {
        const double normal = (double(a.x[t * a.x_stride + c]) - row.mean) * row.inverse;
        return double(a.dout[t * a.dout_stride + c]) * normal;
      });
  add_over_tokens(
      a.tokens, a.channels, a.dbias, [](int64_t) { return 0; },
      [&](int, int64_t t, int64_t c) { return double(a.dout[t * a.dout_stride + c]); });
  for (int64_t t = 0; t < a.tokens; ++t) {
    const float* x = a.x + t * a.x_stride;
    const float* dout = a.dout + t * a.dout_stride;
    float* dx = a.dx + t * a.dx_stride;
    const Moments row = layer_moments(a, t);
    double sum = 0.0, product = 0.0;
    for (int64_t c = 0; c < a.channels; ++c) {
      const double u = double(dout[c]) * double(a.gain[c]);
      sum += u;
      product += u * (double(x[c]) - row.mean) * row.inverse;
    }
    const double mean_u = sum / double(a.channels), mean_un = product / double(a.channels);
    for (int64_t c = 0; c < a.channels; ++c) {
      const double normal = (double(x[c]) - row.mean) * row.inverse;
      const double gradient = row.inverse * (double(dout[c]) * double(a.gain[c]) - mean_u - normal * mean_un);
      dx[c] = float(a.accumulate ? double(dx[c]) + gradient : gradient);
    }
  }
}

// The transposed rotation: x[k] = x[k] cos + x[k + r] sin,  x[k + r] = x[k + r] cos - x[k] sin
void CpuTraining::rotary_backward(const RotaryArgs& a) {
  const int64_t half = a.rotary_dim / 2;
  for (int64_t t = 0; t < a.tokens; ++t) {
    const float* cosines = a.cosines + int64_t{a.positions[t]} * half;
    const float* sines = a.sines + int64_t{a.positions[t]} * half;
    for (int64_t h = 0; h < a.heads; ++h) {
      float* x = a.x + t * a.stride + h * a.head_dim;
      for (int64_t k = 0; k < half; ++k) {
        const double low = double(x[k]), high = double(x[k + half]);
        const double cosine = double(cosines[k]), sine = double(sines[k]);
        x[k] = float(low * cosine + high * sine);
        x[k + half] = float(high * cosine - low * sine);
      }
    }
  }
}

// dx = f'(x) dout
void CpuTraining::activation_backward(const ActivationBackwardArgs& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    for (int64_t c = 0; c < a.columns; ++c) {
      const double slope = slope_at(a.kind, double(a.x[r * a.x_stride + c])).slope;
      a.dx[r * a.dx_stride + c] = float(slope * double(a.dout[r * a.dout_stride + c]));
    }
  }
}

// dgate = dout up f'(gate),  dup = dout f(gate)
void CpuTraining::gated_activation_backward(const GatedActivationBackwardArgs& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    for (int64_t c = 0; c < a.columns; ++c) {
      const Slope gate = slope_at(a.kind, double(a.gate[r * a.gate_stride + c]));
      const double up = double(a.up[r * a.up_stride + c]);
      const double dout = double(a.dout[r * a.dout_stride + c]);
      a.dgate[r * a.dgate_stride + c] = float(dout * up * gate.slope);
      a.dup[r * a.dup_stride + c] = float(dout * gate.value);
    }
  }
}

// dx = out (dout - sum(out dout))
void CpuTraining::softmax_backward(const SoftmaxBackwardArgs& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    const float* out = a.out + r * a.out_stride;
    const float* dout = a.dout + r * a.dout_stride;
    float* dx = a.dx + r * a.dx_stride;
    double sum = 0.0;
    for (int64_t c = 0; c < a.columns; ++c) sum += double(out[c]) * double(dout[c]);
    for (int64_t c = 0; c < a.columns; ++c) dx[c] = float(double(out[c]) * (double(dout[c]) - sum));
  }
}

// dtable[ids[t], :] += scale * dout[t, :]; the tokens of one id are summed before they are added
void CpuTraining::embedding_backward(const EmbeddingBackwardArgs& a) {
  for (int64_t first = 0; first < a.tokens; ++first) {
    const int32_t id = a.ids[first];
    if (std::find(a.ids, a.ids + first, id) != a.ids + first) continue;  // done with an earlier token
    for (int64_t begin = 0; begin < a.channels; begin += kStripe) {
      const int64_t end = std::min(a.channels, begin + kStripe);
      Sums sums{};
      for (int64_t t = first; t < a.tokens; ++t) {
        if (a.ids[t] != id) continue;
        for (int64_t c = begin; c < end; ++c)
          sums[size_t(c - begin)] += double(a.dout[t * a.dout_stride + c]);
      }
      float* row = a.dtable + int64_t{id} * a.channels;
      for (int64_t c = begin; c < end; ++c)
        row[c] = float(double(row[c]) + double(a.scale) * sums[size_t(c - begin)]);
    }
  }
}

}  // namespace pare::cpu
