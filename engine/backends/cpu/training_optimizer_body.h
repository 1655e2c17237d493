// engine/backends/cpu/training_optimizer_body.h: one step of an optimizer in one pass over memory, and
// rounding to a grid of codes with its gradient.
#pragma once

#include "engine/tensor/training_backend.h"

namespace pare::cpu::PARE_ISA_NAMESPACE {

// Bits [column, column + n) of a row of a mask, n <= kLanes; column is a multiple of kLanes, so that they lie
// in as few bytes as they can.
PARE_INLINE uint32_t mask_bits(const uint8_t* row, int64_t column, int64_t n) {
  uint32_t bits = row[column / 8];
  if (kLanes > 8 && n > 8) bits |= uint32_t(row[column / 8 + 1]) << 8;
  return bits >> (column % 8);
}

// body(i, extent, kept) for the elements i of [begin, end), or of rows [begin, end) where there is a mask;
// kept(x) is x without what the mask removes.
template <typename Args, typename Body>
PARE_INLINE void for_each_kept(const Args& a, int64_t begin, int64_t end, Body body) {
  if (a.kept == nullptr) {
    for_each_piece(end - begin,
                   [&](int64_t i, auto extent) { body(begin + i, extent, [](Vec x) { return x; }); });
    return;
  }
  for (int64_t row = begin; row < end; ++row) {
    const uint8_t* bits = a.kept + row * a.row_bytes;
    for_each_piece(a.columns, [&](int64_t c, auto extent) {
      const int64_t left = a.columns - c;
      const Mask mask = mask_of_bits(mask_bits(bits, c, left < kLanes ? left : kLanes));
      body(row * a.columns + c, extent, [mask](Vec x) { return select(mask, x, zero()); });
    });
  }
}

// The factors of a step are found in double: 1 - beta2 and lr / correction1 keep all their digits. Decay and
// step are taken from w together, since 1 - lr decay would lose most of lr decay.
static void adamw(const AdamWArgs& a, int64_t begin, int64_t end) {
  const Vec gradient_scale = broadcast(a.gradient_scale), eps = broadcast(a.eps);
  const Vec beta1 = broadcast(a.beta1), rest1 = broadcast(float(1.0 - double(a.beta1)));
  const Vec beta2 = broadcast(a.beta2), rest2 = broadcast(float(1.0 - double(a.beta2)));
  const Vec step = broadcast(float(double(a.lr) / double(a.correction1)));
  const Vec inverse2 = broadcast(float(1.0 / double(a.correction2)));
  const Vec decay = broadcast(float(double(a.lr) * double(a.decay)));
  for_each_kept(a, begin, end, [&](int64_t i, auto extent, auto kept) {
    const Vec g = load(a.gradient + i, extent) * gradient_scale;
    const Vec m = multiply_add(beta1, load(a.m + i, extent), rest1 * g);
    const Vec v = multiply_add(beta2, load(a.v + i, extent), (rest2 * g) * g);
    const Vec w = load(a.w + i, extent);
    const Vec change = step * m / (square_root(v * inverse2) + eps);
    store(a.m + i, kept(m), extent);
    store(a.v + i, kept(v), extent);
    store(a.w + i, kept(w - multiply_add(decay, w, change)), extent);
  });
}

static void sgd(const SgdArgs& a, int64_t begin, int64_t end) {
  const Vec gradient_scale = broadcast(a.gradient_scale), lr = broadcast(a.lr), mu = broadcast(a.mu);
  const Vec decay = broadcast(float(double(a.lr) * double(a.decay)));
  for_each_kept(a, begin, end, [&](int64_t i, auto extent, auto kept) {
    Vec change = load(a.gradient + i, extent) * gradient_scale;
    if (a.momentum != nullptr) {
      change = multiply_add(mu, load(a.momentum + i, extent), change);
      store(a.momentum + i, kept(change), extent);
    }
    const Vec w = load(a.w + i, extent);
    store(a.w + i, kept(w - multiply_add(decay, w, lr * change)), extent);
  });
}

static double sum_of_squares(const float* x, int64_t count) {
  Wide sum = wide_zero();
  for_each_vector(x, count, 0.0f, [&](Vec v) {
    const Wide w = widen(v);
    sum = multiply_add(w, w, sum);
  });
  return reduce_add(sum);
}

// One group's grid. The quotient is bounded just beyond the range before it is rounded: round_even() is for
// numbers below 2^22, and the code is the same.
struct CodeRounder {
  Vec scale, zero, low, high, least, most;
  PARE_INLINE Vec nearest(Vec quotient) const {
    return round_even(max_or_second(least, min_or_second(most, quotient)));
  }
};

PARE_INLINE CodeRounder code_rounder(const float* scales, const float* zeros, int64_t group, float low,
                                     float high) {
  const float zero_code = zeros != nullptr ? zeros[group] : 0.0f;
  return {broadcast(scales[group]),
          broadcast(zero_code),
          broadcast(low),
          broadcast(high),
          broadcast(low - zero_code - 1.0f),
          broadcast(high - zero_code + 1.0f)};
}

// body(group, first element, count) for each group of rows [begin, end)
template <typename Args, typename Body>
PARE_INLINE void for_each_group(const Args& a, int64_t begin, int64_t end, Body body) {
  const int64_t groups = (a.columns + a.group_width - 1) / a.group_width;
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = g * a.group_width, left = a.columns - first;
      body(row * groups + g, row * a.columns + first, left < a.group_width ? left : a.group_width);
    }
  }
}

static void fake_quantize(const FakeQuantizeArgs& a, int64_t begin, int64_t end) {
  for_each_group(a, begin, end, [&](int64_t group, int64_t first, int64_t count) {
    const CodeRounder grid = code_rounder(a.scales, a.zeros, group, a.low, a.high);
    map(a.weight + first, a.out + first, count, [&](Vec w) {
      const Vec code = grid.nearest(w / grid.scale) + grid.zero;
      return grid.scale * (max_or_second(grid.low, min_or_second(grid.high, code)) - grid.zero);
    });
  });
}

static void fake_quantize_backward(const FakeQuantizeBackwardArgs& a, int64_t begin, int64_t end) {
  for_each_group(a, begin, end, [&](int64_t group, int64_t first, int64_t count) {
    const CodeRounder grid = code_rounder(a.scales, a.zeros, group, a.low, a.high);
    const Vec below = grid.low - grid.zero, above = grid.high - grid.zero;
    Wide sum = wide_zero();
    for_each_piece(count, [&](int64_t i, auto extent) {
      const Vec quotient = load(a.weight + first + i, extent) / grid.scale;
      const Vec nearest = grid.nearest(quotient);
      const Vec code = nearest + grid.zero;
      const Mask is_below = less(code, grid.low), is_above = less(grid.high, code);
      const Vec dout = load(a.dout + first + i, extent);  // zero beyond the end
      const Vec slope = select(is_below, below, select(is_above, above, nearest - quotient));
      sum = multiply_add(widen(dout), widen(slope), sum);
      store(a.dweight + first + i, select(is_below, zero(), select(is_above, zero(), dout)), extent);
    });
    if (a.dscales != nullptr)
      a.dscales[group] = float(double(a.dscales[group]) + double(a.step_gradient) * reduce_add(sum));
  });
}

}  // namespace pare::cpu::PARE_ISA_NAMESPACE
