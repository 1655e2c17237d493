// engine/backends/cpu/matmul/gemm_body.h: packing and the register tile of the blocked product, over a vector
// class V.
//
// Included by isa_<level>.cpp only: everything is a template over V, whose namespace keeps the symbols of the
// levels apart. V::F is a vector of V::kWidth floats.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/backends/cpu/matmul/level.h"

namespace pare::cpu::body {

// How far ahead of their use streamed weights are asked for. Measured on int4-g64 4096x4096, one thread of a
// Zen 5: 63, 60, 81 and 81 % of cpu.read1 at 1, 2, 4 and 8 KiB. What lies behind the end is only asked for,
// never read.
constexpr int64_t kPrefetchBytes = 4096;

// Writes a vector of results for `count` columns: out (+)= value + bias.
template <class V>
inline __attribute__((always_inline)) void finish(typename V::F value, const float* bias, float* out,
                                                  int64_t count, bool accumulate) {
  constexpr int kWidth = V::kWidth;
  if (count >= kWidth) {
    if (bias != nullptr) value = V::add(value, V::load(bias));
    if (accumulate) value = V::add(value, V::load(out));
    V::store(out, value);
    return;
  }
  alignas(64) float lanes[size_t(kWidth)];
  V::store(lanes, value);
  for (int64_t i = 0; i < count; ++i) {
    float result = bias != nullptr ? lanes[i] + bias[i] : lanes[i];
    if (accumulate) result += out[i];
    out[i] = result;
  }
}

// The same for a tile at the right edge, whose sums [rows, 2 * width] lie in memory.
template <class V>
__attribute__((noinline)) void finish_edge(const GemmTile& t, int64_t rows, const float* sums) {
  for (int64_t r = 0; r < rows; ++r) {
    float* out = t.out + r * t.out_stride;
    for (int64_t c = 0; c < t.columns; ++c) {
      float value = sums[r * 2 * V::kWidth + c];
      if (t.bias != nullptr) value += t.bias[c];
      out[c] = t.accumulate ? out[c] + value : value;
    }
  }
}

// kRows x 2 vectors of sums in registers; per step of k two loads, kRows broadcasts and 2 * kRows
// multiply-adds.
template <class V, int kRows>
void gemm_tile(const GemmTile& t) {
  constexpr int kWidth = V::kWidth;
  typename V::F sum[size_t(kRows)][2];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    sum[r][0] = V::zero();
    sum[r][1] = V::zero();
  }
  const float* a = t.a;
  const float* b = t.b;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    __builtin_prefetch(t.out + r * t.out_stride, 1);
    __builtin_prefetch(t.out + r * t.out_stride + kWidth, 1);
  }
  for (int64_t i = 0; i < t.kc; ++i) {
    const typename V::F left = V::load(b);
    const typename V::F right = V::load(b + kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const typename V::F x = V::set1(a[r]);
      sum[r][0] = V::fma(x, left, sum[r][0]);
      sum[r][1] = V::fma(x, right, sum[r][1]);
    }
    a += kRows;
    b += 2 * kWidth;
  }
  if (t.columns < 2 * kWidth) {
    alignas(64) float sums[size_t(kRows * 2 * kWidth)];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      V::store(sums + r * 2 * kWidth, sum[r][0]);
      V::store(sums + r * 2 * kWidth + kWidth, sum[r][1]);
    }
    return finish_edge<V>(t, kRows, sums);
  }
  if (t.bias != nullptr) {
    const typename V::F left = V::load(t.bias);
    const typename V::F right = V::load(t.bias + kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      sum[r][0] = V::add(sum[r][0], left);
      sum[r][1] = V::add(sum[r][1], right);
    }
  }
  if (t.accumulate) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      sum[r][0] = V::add(sum[r][0], V::load(t.out + r * t.out_stride));
      sum[r][1] = V::add(sum[r][1], V::load(t.out + r * t.out_stride + kWidth));
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    V::store(t.out + r * t.out_stride, sum[r][0]);
    V::store(t.out + r * t.out_stride + kWidth, sum[r][1]);
  }
}

// Element types of dense weights.
template <class V>
struct LoadF32 {
  using Element = float;
  static typename V::F load(const Element* p) { return V::load(p); }
};
template <class V>
struct LoadBf16 {
  using Element = uint16_t;
  static typename V::F load(const Element* p) { return V::load_bf16(p); }
};
template <class V>
struct LoadF16 {
  using Element = uint16_t;
  static typename V::F load(const Element* p) { return V::load_f16(p); }
};

// The `count` < kWidth elements at p as a vector with zeros behind them.
template <class V, class L>
inline typename V::F load_part(const typename L::Element* p, int64_t count) {
  alignas(64) typename L::Element lanes[size_t(V::kWidth)] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return L::load(lanes);
}

// kWidth rows x `columns` of source, transposed in registers and stored with distance `step`.
template <class V, class L>
inline void transpose_block(const typename L::Element* source, int64_t stride, int64_t rows, int64_t columns,
                            typename V::F (&block)[size_t(V::kWidth)]) {
  constexpr int kWidth = V::kWidth;
  if (rows == kWidth && columns == kWidth) {
#pragma GCC unroll 16
    for (int r = 0; r < kWidth; ++r) block[r] = L::load(source + r * stride);
  } else {
    for (int64_t r = 0; r < kWidth; ++r) {
      if (r >= rows) {
        block[r] = V::zero();
      } else if (columns == kWidth) {
        block[r] = L::load(source + r * stride);
      } else {
        block[r] = load_part<V, L>(source + r * stride, columns);
      }
    }
  }
  V::transpose(block);
}

template <class V, class L>
void pack_panel(const void* weight, int64_t stride, int64_t rows, int64_t kc, float* panel) {
  constexpr int kWidth = V::kWidth;
  const auto* source = static_cast<const typename L::Element*>(weight);
  for (int64_t half = 0; half < 2; ++half) {
    const int64_t left = rows - half * kWidth;
    const int64_t here = left < 0 ? 0 : (left < kWidth ? left : kWidth);
    for (int64_t k = 0; k < kc; k += kWidth) {
      const int64_t columns = kc - k < kWidth ? kc - k : kWidth;
      typename V::F block[size_t(kWidth)];
      transpose_block<V, L>(source + half * kWidth * stride + k, stride, here, columns, block);
      float* to = panel + k * 2 * kWidth + half * kWidth;
      if (columns == kWidth) {
#pragma GCC unroll 16
        for (int c = 0; c < kWidth; ++c) V::store(to + c * 2 * kWidth, block[c]);
      } else {
        for (int64_t c = 0; c < columns; ++c) V::store(to + c * 2 * kWidth, block[c]);
      }
    }
  }
}

// x to [kc, rows]. A vector store of column c spills over the start of column c + 1, which the next store
// puts right; the last ones go through a buffer, since behind them lies the panel of somebody else.
template <class V>
void pack_rows(const float* x, int64_t stride, int64_t rows, int64_t kc, float* packed) {
  constexpr int kWidth = V::kWidth;
  for (int64_t first = 0; first < rows; first += kWidth) {
    const int64_t here = rows - first < kWidth ? rows - first : kWidth;
    for (int64_t k = 0; k < kc; k += kWidth) {
      const int64_t columns = kc - k < kWidth ? kc - k : kWidth;
      typename V::F block[size_t(kWidth)];
      transpose_block<V, LoadF32<V>>(x + first * stride + k, stride, here, columns, block);
      for (int64_t c = 0; c < columns; ++c) {
        float* to = packed + (k + c) * rows + first;
        if (rows <= kWidth && (k + c) * rows + kWidth <= kc * rows) {
          V::store(to, block[c]);
          continue;
        }
        alignas(64) float lanes[size_t(kWidth)];
        V::store(lanes, block[c]);
        for (int64_t i = 0; i < here; ++i) to[i] = lanes[i];
      }
    }
  }
}

// Transposed x to [kc, rows]: each of its rows already holds what belongs together.
template <class V, int kRows>
void pack_columns(const float* x, int64_t stride, int64_t kc, float* packed) {
  for (int64_t k = 0; k < kc; ++k)
    __builtin_memcpy(packed + k * kRows, x + k * stride, kRows * sizeof(float));
}

template <class V, class L>
void copy_panel(const void* weight, int64_t stride, int64_t columns, int64_t kc, float* panel) {
  constexpr int kWidth = V::kWidth;
  const auto* source = static_cast<const typename L::Element*>(weight);
  if (columns == 2 * kWidth) {
    for (int64_t k = 0; k < kc; ++k) {
      V::store(panel + k * 2 * kWidth, L::load(source + k * stride));
      V::store(panel + k * 2 * kWidth + kWidth, L::load(source + k * stride + kWidth));
    }
    return;
  }
  const int64_t left = columns < kWidth ? columns : kWidth, right = columns - left;
  for (int64_t k = 0; k < kc; ++k) {
    V::store(panel + k * 2 * kWidth, load_part<V, L>(source + k * stride, left));
    V::store(panel + k * 2 * kWidth + kWidth, load_part<V, L>(source + k * stride + left, right));
  }
}

}  // namespace pare::cpu::body
