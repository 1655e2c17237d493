// engine/backends/cpu/sparse/masked_body.h: products with any weights kept, over a vector class V and a way E
// to bring the kept values of one input to their rows.
//
//   E::kVectors            vectors of rows in a tile
//   E::Mask                one bit per row
//   E::kLinesPerInput      cache lines that the values of an input take, for prefetching
//   E::Fill                what removed rows decode to; E::fill(zeros) makes it for a group (codes only)
//   E::take(mask, from, fill, values)  reads popcount(mask) values at `from` into values[kVectors], removed
//   rows 0 (or
//                          the fill), and moves `from` behind them
//
// Sums are per input modulo kSums, so the result is the same bytes for any two E of one width.
#pragma once

#include <cstring>

#include "engine/backends/cpu/sparse/of_four_body.h"

namespace pare::cpu::body {

template <class E>
inline __attribute__((always_inline)) typename E::Mask load_mask(const uint8_t* masks, int64_t index) {
  typename E::Mask mask;
  std::memcpy(&mask, masks + index * int64_t(sizeof mask), sizeof mask);
  return mask;
}

template <class V, class E, bool kZeros, int kM>
void masked_tile(const SparseGemv& g, int64_t tile, int64_t first_m) {
  using F = typename V::F;
  constexpr int kWidth = V::kWidth, kVectors = E::kVectors;
  constexpr int kSums = kM > 1 ? (kVectors == 2 ? 2 : 1) : (kVectors == 2 ? 4 : 2);
  const SparseMatrix& w = *g.weight;
  const float* x = g.x + first_m * g.x_stride;
  F total[size_t(kM)][size_t(kVectors)];
  F sum[size_t(kSums)][size_t(kM)][size_t(kVectors)];
  const auto clear = [&](F(&rows)[size_t(kM)][size_t(kVectors)]) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int m = 0; m < kM; ++m) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) rows[m][v] = V::zero();
    }
  };
  clear(total);
  int64_t k = 0;
  const uint8_t* values = nullptr;  // of input k
  for (int64_t group = 0; group < w.groups; ++group) {
    const int64_t end = w.k - k < w.group_width ? w.k : k + w.group_width;
    const int64_t at = (tile * w.groups + group) * kVectors * kWidth;
    const typename E::Fill fill = E::fill(kZeros ? w.zeros + at : nullptr);
    F zero[size_t(kVectors)];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      zero[v] =
          kZeros ? V::signed_bytes(reinterpret_cast<const uint8_t*>(w.zeros) + at + v * kWidth) : V::zero();
    }
#pragma GCC unroll 4
    for (int a = 0; a < kSums; ++a) clear(sum[a]);
    const auto input = [&](const uint8_t* masks, int64_t i, int64_t column,
                           F(&into)[size_t(kM)][size_t(kVectors)]) __attribute__((always_inline)) {
      F value[size_t(kVectors)];
      E::take(load_mask<E>(masks, i), values, fill, value);
      if constexpr (kZeros) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) value[v] = V::sub(value[v], zero[v]);
      }
#pragma GCC unroll 8
      for (int m = 0; m < kM; ++m) {
        const F activation = V::set1(x[m * g.x_stride + column]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) into[m][v] = V::fma(value[v], activation, into[m][v]);
      }
    };
    while (k < end) {
      const int64_t block = k / kMaskedBlock, first = block * kMaskedBlock;
      const int64_t width = w.k - first < kMaskedBlock ? w.k - first : kMaskedBlock;
      const uint8_t* masks = w.data + w.starts[tile * w.blocks + block];
      if (k == first) values = masks + width * int64_t(sizeof(typename E::Mask));
      const int64_t block_end = end < first + width ? end : first + width;
      for (; k + 4 <= block_end; k += 4) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          __builtin_prefetch(values + kPrefetchBytes);
          if constexpr (E::kLinesPerInput == 2) __builtin_prefetch(values + kPrefetchBytes + 64);
          input(masks, k - first + i, k + i, sum[i % kSums]);
        }
      }
      for (; k < block_end; ++k) input(masks, k - first, k, sum[0]);
    }
#pragma GCC unroll 8
    for (int m = 0; m < kM; ++m) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        F part = sum[0][m][v];
        if constexpr (kSums > 1) part = V::add(part, sum[1][m][v]);
        if constexpr (kSums == 4) part = V::add(part, V::add(sum[2][m][v], sum[3][m][v]));
        total[m][v] = w.scales == nullptr ? V::add(total[m][v], part)
                                          : V::fma(load_scale<V>(w.scales, w.half_scales, at + v * kWidth),
                                                   part, total[m][v]);
      }
    }
  }
  const int64_t row = tile * kVectors * kWidth;
  for (int m = 0; m < kM; ++m) {
    for (int v = 0; v < kVectors && row + v * kWidth < w.n; ++v) {
      const int64_t column = row + v * kWidth;
      finish<V>(total[m][v], g.bias == nullptr ? nullptr : g.bias + column,
                g.out + (first_m + m) * g.out_stride + column, w.n - column, g.accumulate);
    }
  }
}

template <class V, class E>
void masked_gemv(const SparseGemv& g) {
  for (int64_t tile = g.begin; tile < g.end; ++tile) {
    for_row_groups(g.m, [&]<int kM>(int64_t m) {
      if constexpr (E::kHasCodes) {
        if (g.weight->zeros != nullptr) return masked_tile<V, E, true, kM>(g, tile, m);
      }
      masked_tile<V, E, false, kM>(g, tile, m);
    });
  }
}

template <class V, class E>
void masked_expand(const SparseMatrix& w, int64_t n0, int64_t k0, int64_t kc, float* panel) {
  using F = typename V::F;
  constexpr int kWidth = V::kWidth, kVectors = E::kVectors;
  const int64_t tile = n0 / (kVectors * kWidth);
  const int first_vector = int(n0 / kWidth % kVectors);
  int64_t block = k0 / kMaskedBlock, k = block * kMaskedBlock;  // reading starts with the block
  for (; k < k0 + kc; ++block) {
    const int64_t first = k;
    const int64_t width = w.k - first < kMaskedBlock ? w.k - first : kMaskedBlock;
    const uint8_t* masks = w.data + w.starts[tile * w.blocks + block];
    const uint8_t* values = masks + width * int64_t(sizeof(typename E::Mask));
    const int64_t end = first + width < k0 + kc ? first + width : k0 + kc;
    while (k < end) {
      const int64_t group = k / w.group_width;
      const int64_t group_end = (group + 1) * w.group_width < end ? (group + 1) * w.group_width : end;
      const int64_t at = (tile * w.groups + group) * kVectors * kWidth;
      const typename E::Fill fill = E::fill(w.zeros == nullptr ? nullptr : w.zeros + at);
      F scale[2], zero[2];
      for (int v = 0; v < 2; ++v) {
        const int64_t lanes = at + (first_vector + v) * kWidth;
        scale[v] = w.scales == nullptr ? V::set1(1.0f) : load_scale<V>(w.scales, w.half_scales, lanes);
        zero[v] = w.zeros == nullptr ? V::zero()
                                     : V::signed_bytes(reinterpret_cast<const uint8_t*>(w.zeros) + lanes);
      }
      for (; k < group_end; ++k) {
        F value[size_t(kVectors)];
        E::take(load_mask<E>(masks, k - first), values, fill, value);
        if (k < k0) continue;
        float* to = panel + (k - k0) * 2 * kWidth;
        for (int v = 0; v < 2; ++v) {
          V::store(to + v * kWidth, V::mul(scale[v], V::sub(value[first_vector + v], zero[v])));
        }
      }
    }
  }
}

}  // namespace pare::cpu::body
