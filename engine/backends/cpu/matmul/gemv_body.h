// engine/backends/cpu/matmul/gemv_body.h: products with few activation rows and dense weights, over a vector
// class V.
//
// The weights are the whole cost: they are read once, in order, and converted in registers.
#pragma once

#include <cstdint>

#include "engine/backends/cpu/matmul/gemm_body.h"
#include "engine/backends/cpu/matmul/level.h"

namespace pare::cpu::body {

// kRows output rows x kM activation rows: lanes run along k, one sum vector per pair.
template <class V, class L, int kRows, int kM>
void dense_rows(const DenseGemv& g, int64_t row, int64_t first_m) {
  constexpr int kWidth = V::kWidth;
  using F = typename V::F;
  using Element = typename L::Element;
  const Element* weight = static_cast<const Element*>(g.weight) + row * g.k;
  const float* x = g.x + first_m * g.x_stride;
  F sum[size_t(kRows)][size_t(kM)];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int m = 0; m < kM; ++m) sum[r][m] = V::zero();
  }
  const int64_t whole = g.k - g.k % kWidth;
  for (int64_t k = 0; k < whole; k += kWidth) {
    F activation[size_t(kM)];
#pragma GCC unroll 4
    for (int m = 0; m < kM; ++m) activation[m] = V::load(x + m * g.x_stride + k);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Element* from = weight + r * g.k + k;
      __builtin_prefetch(reinterpret_cast<const char*>(from) + kPrefetchBytes);
      const F w = L::load(from);
#pragma GCC unroll 4
      for (int m = 0; m < kM; ++m) sum[r][m] = V::fma(w, activation[m], sum[r][m]);
    }
  }
  if (whole < g.k) {
    for (int r = 0; r < kRows; ++r) {
      const F w = load_part<V, L>(weight + r * g.k + whole, g.k - whole);
      for (int m = 0; m < kM; ++m) {
        sum[r][m] = V::fma(w, load_part<V, LoadF32<V>>(x + m * g.x_stride + whole, g.k - whole), sum[r][m]);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int m = 0; m < kM; ++m) {
      float* out = g.out + (first_m + m) * g.out_stride + row + r;
      float value = V::sum(sum[r][m]);
      if (g.bias != nullptr) value += g.bias[row + r];
      *out = g.accumulate ? *out + value : value;
    }
  }
}

template <class V, class L, int kRows>
void dense_row_block(const DenseGemv& g, int64_t row) {
  int64_t m = 0;
  for (; m + 4 <= g.m; m += 4) dense_rows<V, L, kRows, 4>(g, row, m);
  switch (g.m - m) {
    case 3:
      return dense_rows<V, L, kRows, 3>(g, row, m);
    case 2:
      return dense_rows<V, L, kRows, 2>(g, row, m);
    case 1:
      return dense_rows<V, L, kRows, 1>(g, row, m);
    default:
      return;
  }
}

template <class V, class L>
void dense_gemv(const DenseGemv& g) {
  int64_t row = g.begin;
  for (; row + 4 <= g.end; row += 4) dense_row_block<V, L, 4>(g, row);
  for (; row < g.end; ++row) dense_row_block<V, L, 1>(g, row);
}

template <class V>
float dot(const float* x, const float* y, int64_t count) {
  constexpr int kWidth = V::kWidth;
  typename V::F sum[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  int64_t i = 0;
  for (; i + 4 * kWidth <= count; i += 4 * kWidth) {
#pragma GCC unroll 4
    for (int a = 0; a < 4; ++a)
      sum[a] = V::fma(V::load(x + i + a * kWidth), V::load(y + i + a * kWidth), sum[a]);
  }
  for (; i + kWidth <= count; i += kWidth) sum[0] = V::fma(V::load(x + i), V::load(y + i), sum[0]);
  if (i < count) {
    using L = LoadF32<V>;
    sum[1] = V::fma(load_part<V, L>(x + i, count - i), load_part<V, L>(y + i, count - i), sum[1]);
  }
  return V::sum(V::add(V::add(sum[0], sum[1]), V::add(sum[2], sum[3])));
}

}  // namespace pare::cpu::body
