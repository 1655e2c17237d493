// engine/backends/cpu/training_row_body.h: gradients of norms, softmax and embedding tables. Sums over a row
// run in double lane by lane, sums over tokens in double in the order of the tokens.
#pragma once

#include <math.h>

#include "engine/tensor/training_backend.h"

namespace pare::cpu::PARE_ISA_NAMESPACE {

// Channels whose sums over tokens lie on the stack at a time.
constexpr int64_t kSumStripe = 1024;

// into[c] += sum_t term(t, c, extent) for channels [begin, end)
template <typename Term>
PARE_INLINE void add_over_tokens(int64_t tokens, int64_t begin, int64_t end, float* into, Term term) {
  for (int64_t first = begin; first < end; first += kSumStripe) {
    const int64_t count = end - first < kSumStripe ? end - first : kSumStripe;
    Wide sums[kSumStripe / kLanes];
    for (Wide& sum : sums) sum = wide_zero();
    for (int64_t t = 0; t < tokens; ++t) {
      for_each_piece(count, [&](int64_t i, auto extent) {
        sums[i / kLanes] = sums[i / kLanes] + widen(term(t, first + i, extent));
      });
    }
    for_each_piece(count, [&](int64_t i, auto extent) {
      float* place = into + first + i;
      store(place, narrow(widen(load(place, extent)) + sums[i / kLanes]), extent);
    });
  }
}

// scratch[t] = r
static void rms_norm_statistics(const RmsNormBackwardArgs& a, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    Wide squares = wide_zero();
    for_each_vector(a.x + t * a.x_stride, a.channels, 0.0f, [&](Vec v) {
      const Wide w = widen(v);
      squares = multiply_add(w, w, squares);
    });
    a.scratch[t] = float(1.0 / ::sqrt(reduce_add(squares) / double(a.channels) + double(a.eps)));
  }
}

static void rms_norm_dx(const RmsNormBackwardArgs& a, int64_t begin, int64_t end) {
  const Vec one_or_zero = broadcast(a.gain_plus_one ? 1.0f : 0.0f);
  for (int64_t t = begin; t < end; ++t) {
    const float* x = a.x + t * a.x_stride;
    const float* dout = a.dout + t * a.dout_stride;
    float* dx = a.dx + t * a.dx_stride;
    const auto u_at = [&](int64_t c, auto extent) {
      return load(dout + c, extent) * (load(a.gain + c, extent) + one_or_zero);
    };
    Wide product = wide_zero();
    for_each_piece(a.channels, [&](int64_t c, auto extent) {
      product = multiply_add(widen(u_at(c, extent)), widen(load(x + c, extent)), product);
    });
    const double r = double(a.scratch[t]);
    const Vec inverse = broadcast(a.scratch[t]);
    const Vec factor = broadcast(float(r * r * r / double(a.channels) * reduce_add(product)));
    for_each_piece(a.channels, [&](int64_t c, auto extent) {
      const Vec gradient = subtract_product(load(x + c, extent), factor, inverse * u_at(c, extent));
      store(dx + c, a.accumulate ? load(dx + c, extent) + gradient : gradient, extent);
    });
  }
}

static void rms_norm_dgain(const RmsNormBackwardArgs& a, int64_t begin, int64_t end) {
  add_over_tokens(a.tokens, begin, end, a.dgain, [&](int64_t t, int64_t c, auto extent) {
    const Vec normal = load(a.x + t * a.x_stride + c, extent) * broadcast(a.scratch[t]);
    return load(a.dout + t * a.dout_stride + c, extent) * normal;
  });
}

// The mean as two floats, so that x - mean loses nothing when the mean is large; and r.
struct NormRow {
  Vec high, low, inverse;
  PARE_INLINE Vec normal(Vec x) const { return ((x - high) - low) * inverse; }
};

PARE_INLINE NormRow norm_row(const LayerNormBackwardArgs& a, int64_t t) {
  const float* scratch = a.scratch + 4 * t;
  return {broadcast(scratch[0]), broadcast(scratch[1]), broadcast(scratch[2])};
}

static void layer_norm_statistics(const LayerNormBackwardArgs& a, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const float* x = a.x + t * a.x_stride;
    Wide sum = wide_zero();
    for_each_vector(x, a.channels, 0.0f, [&](Vec v) { sum = sum + widen(v); });
    const double mean = reduce_add(sum) / double(a.channels);
    const float high = float(mean);
    const Wide centre = wide_broadcast(double(high));
    Wide squares = wide_zero();
    for_each_vector(x, a.channels, high, [&](Vec v) {
      const Wide difference = widen(v) - centre;
      squares = multiply_add(difference, difference, squares);
    });
    const double shift = mean - double(high);
    const double variance = reduce_add(squares) / double(a.channels) - shift * shift;
    float* scratch = a.scratch + 4 * t;
    scratch[0] = high;
    scratch[1] = float(shift);
    scratch[2] = float(1.0 / ::sqrt(variance + double(a.eps)));
  }
}

static void layer_norm_dx(const LayerNormBackwardArgs& a, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const float* x = a.x + t * a.x_stride;
    const float* dout = a.dout + t * a.dout_stride;
    float* dx = a.dx + t * a.dx_stride;
    const NormRow row = norm_row(a, t);
    Wide sum = wide_zero(), product = wide_zero();
    for_each_piece(a.channels, [&](int64_t c, auto extent) {
      const Vec u = load(dout + c, extent) * load(a.gain + c, extent);  // zero beyond the end
      sum = sum + widen(u);
      product = multiply_add(widen(u), widen(row.normal(load(x + c, extent))), product);
    });
    const Vec mean_u = broadcast(float(reduce_add(sum) / double(a.channels)));
    const Vec mean_un = broadcast(float(reduce_add(product) / double(a.channels)));
    for_each_piece(a.channels, [&](int64_t c, auto extent) {
      const Vec u = load(dout + c, extent) * load(a.gain + c, extent);
      const Vec rest = subtract_product(row.normal(load(x + c, extent)), mean_un, u - mean_u);
      const Vec gradient = row.inverse * rest;
      store(dx + c, a.accumulate ? load(dx + c, extent) + gradient : gradient, extent);
    });
  }
}

static void layer_norm_parameters(const LayerNormBackwardArgs& a, int64_t begin, int64_t end) {
  if (a.dgain != nullptr) {
    add_over_tokens(a.tokens, begin, end, a.dgain, [&](int64_t t, int64_t c, auto extent) {
      const Vec normal = norm_row(a, t).normal(load(a.x + t * a.x_stride + c, extent));
      return load(a.dout + t * a.dout_stride + c, extent) * normal;
    });
  }
  if (a.dbias != nullptr) {
    add_over_tokens(a.tokens, begin, end, a.dbias, [&](int64_t t, int64_t c, auto extent) {
      return load(a.dout + t * a.dout_stride + c, extent);
    });
  }
}

static void softmax_backward(const SoftmaxBackwardArgs& a, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const float* out = a.out + r * a.out_stride;
    const float* dout = a.dout + r * a.dout_stride;
    Wide product = wide_zero();
    for_each_piece(a.columns, [&](int64_t c, auto extent) {
      product = multiply_add(widen(load(out + c, extent)), widen(load(dout + c, extent)), product);
    });
    const Vec sum = broadcast(float(reduce_add(product)));
    map(out, dout, a.dx + r * a.dx_stride, a.columns, [&](Vec p, Vec d) { return p * (d - sum); });
  }
}

// Tokens in order, so that the sums of an id that comes twice do not depend on how channels are cut.
static void embedding_backward(const EmbeddingBackwardArgs& a, int64_t begin, int64_t end) {
  for (int64_t t = 0; t < a.tokens; ++t) {
    scale_row(a.dout + t * a.dout_stride + begin, a.scale, true,
              a.dtable + int64_t(a.ids[t]) * a.channels + begin, end - begin);
  }
}

}  // namespace pare::cpu::PARE_ISA_NAMESPACE
