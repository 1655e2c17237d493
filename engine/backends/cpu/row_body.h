// engine/backends/cpu/row_body.h: operations on whole rows: norms, rotary embedding, softmax, embedding
// tables. Sums run in double, lane by lane, in a fixed order.
#pragma once

#include <math.h>

#include "engine/tensor/backend.h"

namespace pare::cpu::PARE_ISA_NAMESPACE {

static void rms_norm(const RmsNormArgs& a, int64_t begin, int64_t end) {
  const Vec one_or_zero = broadcast(a.gain_plus_one ? 1.0f : 0.0f);
  for (int64_t t = begin; t < end; ++t) {
    const float* x = a.x + t * a.x_stride;
    Wide squares = wide_zero();
    for_each_vector(x, a.channels, 0.0f, [&](Vec v) {
      const Wide w = widen(v);
      squares = multiply_add(w, w, squares);
    });
    const double mean = reduce_add(squares) / double(a.channels);
    const Vec inverse = broadcast(float(1.0 / ::sqrt(mean + double(a.eps))));
    map(x, a.gain, a.out + t * a.out_stride, a.channels,
        [&](Vec v, Vec gain) { return v * inverse * (gain + one_or_zero); });
  }
}

static void layer_norm(const LayerNormArgs& a, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const float* x = a.x + t * a.x_stride;
    float* out = a.out + t * a.out_stride;
    Wide sum = wide_zero();
    for_each_vector(x, a.channels, 0.0f, [&](Vec v) { sum = sum + widen(v); });
    const double mean = reduce_add(sum) / double(a.channels);
    // The mean as two floats, so that x - mean loses nothing when the mean is large.
    const float mean_float = float(mean);
    const Vec high = broadcast(mean_float);
    const Vec low = broadcast(float(mean - double(mean_float)));
    Wide squares = wide_zero();
    const Wide centre = wide_broadcast(double(mean_float));
    for_each_vector(x, a.channels, mean_float, [&](Vec v) {
      const Wide difference = widen(v) - centre;
      squares = multiply_add(difference, difference, squares);
    });
    const double shift = mean - double(mean_float);
    const double variance = reduce_add(squares) / double(a.channels) - shift * shift;
    const Vec inverse = broadcast(float(1.0 / ::sqrt(variance + double(a.eps))));
    map(x, a.gain, out, a.channels, [&](Vec v, Vec gain) { return ((v - high) - low) * inverse * gain; });
    if (a.bias != nullptr) map(out, a.bias, out, a.channels, [](Vec v, Vec bias) { return v + bias; });
  }
}

// kBack: the rotation by the opposite angle, which is the gradient of the one forward.
template <bool kBack>
PARE_INLINE void rotate(const RotaryArgs& a, int64_t begin, int64_t end) {
  const int64_t half = a.rotary_dim / 2;
  for (int64_t t = begin; t < end; ++t) {
    const float* cosines = a.cosines + int64_t(a.positions[t]) * half;
    const float* sines = a.sines + int64_t(a.positions[t]) * half;
    for (int64_t h = 0; h < a.heads; ++h) {
      float* x = a.x + t * a.stride + h * a.head_dim;
      float* y = x + half;
      for_each_piece(half, [&](int64_t k, auto extent) {
        const Vec u = load(x + k, extent);
        const Vec v = load(y + k, extent);
        const Vec c = load(cosines + k, extent);
        const Vec s = load(sines + k, extent);
        store(x + k, kBack ? u * c + v * s : u * c - v * s, extent);
        store(y + k, kBack ? v * c - u * s : v * c + u * s, extent);
      });
    }
  }
}

static void rotary(const RotaryArgs& a, int64_t begin, int64_t end) {
  rotate<false>(a, begin, end);
}
static void rotary_backward(const RotaryArgs& a, int64_t begin, int64_t end) {
  rotate<true>(a, begin, end);
}

PARE_INLINE float row_maximum(const float* x, int64_t n) {
  Vec largest = broadcast(-INFINITY);
  for_each_vector(x, n, -INFINITY, [&](Vec v) { largest = max_or_second(v, largest); });
  return reduce_max(largest);
}

static void softmax(const SoftmaxArgs& a, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const float* x = a.x + r * a.x_stride;
    float* out = a.out + r * a.out_stride;
    const Vec largest = broadcast(row_maximum(x, a.columns));
    map(x, out, a.columns, [&](Vec v) { return exp_nonpositive(v - largest); });
    Wide sum = wide_zero();
    for_each_vector(out, a.columns, 0.0f, [&](Vec v) { sum = sum + widen(v); });
    const Vec total = broadcast(float(reduce_add(sum)));
    map(out, out, a.columns, [&](Vec v) { return v / total; });
  }
}

// out[i] (+)= scale * table[i] for a row of 16-bit numbers
template <typename LoadNarrow>
PARE_INLINE void scale_narrow_row(const uint16_t* row, const EmbeddingArgs& a, float* out,
                                  LoadNarrow load_narrow) {
  const Vec scale = broadcast(a.scale);
  int64_t c = 0;
  for (; c + kLanes <= a.channels; c += kLanes) {
    const Vec value = load_narrow(row + c) * scale;
    store(out + c, a.accumulate ? value + load(out + c) : value);
  }
  const int64_t rest = a.channels - c;
  if (rest == 0) return;
  uint16_t narrow[kLanes] = {};
  for (int64_t i = 0; i < rest; ++i) narrow[i] = row[c + i];
  const Vec value = load_narrow(narrow) * scale;
  store_partial(out + c, a.accumulate ? value + load_partial(out + c, rest) : value, rest);
}

static void embedding(const EmbeddingArgs& a, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const int64_t offset = int64_t(a.ids[t]) * a.channels;
    float* out = a.out + t * a.out_stride;
    if (a.table_dtype == DType::f32) {
      scale_row(static_cast<const float*>(a.table) + offset, a.scale, a.accumulate, out, a.channels);
      continue;
    }
    const uint16_t* row = static_cast<const uint16_t*>(a.table) + offset;
    if (a.table_dtype == DType::bf16) {
      scale_narrow_row(row, a, out, [](const uint16_t* p) { return load_bf16(p); });
    } else {
      scale_narrow_row(row, a, out, [](const uint16_t* p) { return load_f16(p); });
    }
  }
}

}  // namespace pare::cpu::PARE_ISA_NAMESPACE
