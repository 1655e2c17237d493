// engine/backends/cpu/sparse/of_four_body.h: products with n of each four inputs kept, over a vector class V.
//
// Included by isa_*.cpp only. Per slot and vector of rows: the value (one or two operations), one shift and
// one permutation that picks the activation, one multiply-add. V::load_four puts the same four floats where
// V::pick finds them for every lane by the two lowest bits of a word.
#pragma once

#include "engine/backends/cpu/matmul/tiles_body.h"
#include "engine/backends/cpu/sparse/sparse_level.h"

namespace pare::cpu::body {

template <class V>
struct SlotF32 {
  static constexpr bool kHasCodes = false;
  static constexpr int kPerUnit = 1, kUnitBytes = 4 * V::kWidth;
  static typename V::F get(const uint8_t* p, int) { return V::load_bytes(p); }
};
template <class V>
struct SlotBf16 {
  static constexpr bool kHasCodes = false;
  static constexpr int kPerUnit = 2, kUnitBytes = 4 * V::kWidth;
  static typename V::F get(const uint8_t* p, int index) {
    return index == 0 ? V::low_bf16(V::load_words(p)) : V::high_bf16(V::load_words(p));
  }
};
template <class V>
struct SlotF16 {
  static constexpr bool kHasCodes = false;
  static constexpr int kPerUnit = 1, kUnitBytes = 2 * V::kWidth;
  static typename V::F get(const uint8_t* p, int) { return V::load_f16_bytes(p); }
};
template <class V>
struct SlotByte {
  static constexpr bool kHasCodes = true;
  static constexpr int kPerUnit = 1, kUnitBytes = V::kWidth;
  static typename V::F get(const uint8_t* p, int) { return V::signed_bytes(p); }
};
template <class V>
struct SlotNibble {
  static constexpr bool kHasCodes = true;
  static constexpr int kPerUnit = 8, kUnitBytes = 4 * V::kWidth;
  static typename V::F get(const uint8_t* p, int index) { return V::signed_nibble(V::load_words(p), index); }
};

template <class V, class Slot, int kN>
struct OfFour {
  static constexpr int kColumns = kStepColumns[kN];
  static constexpr int kSlots = step_slots(kN);
  static constexpr int kStepBytes =
      4 * V::kWidth + (kSlots + Slot::kPerUnit - 1) / Slot::kPerUnit * Slot::kUnitBytes;

  static inline __attribute__((always_inline)) typename V::F value(const uint8_t* step, int slot) {
    return Slot::get(step + 4 * V::kWidth + slot / Slot::kPerUnit * Slot::kUnitBytes, slot % Slot::kPerUnit);
  }
};

// kM activation rows with one tile. Every group has kSums partial sums (slot modulo kSums).
template <class V, class Slot, int kN, bool kZeros, int kM>
void of_four_tile(const SparseGemv& g, int64_t tile, int64_t first_m) {
  using F = typename V::F;
  using Step = OfFour<V, Slot, kN>;
  constexpr int kWidth = V::kWidth;
  constexpr int kSums = kM == 1 ? 4 : 2;
  const SparseMatrix& w = *g.weight;
  F total[size_t(kM)];
#pragma GCC unroll 8
  for (int m = 0; m < kM; ++m) total[m] = V::zero();
  const uint8_t* step = w.data + tile * w.tile_bytes;
  for (int64_t group = 0; group < w.groups; ++group) {
    const int64_t begin = group * w.group_width;
    const int64_t end = w.k - begin < w.group_width ? w.k : begin + w.group_width;
    const int64_t at = (tile * w.groups + group) * kWidth;
    const F zero = kZeros ? V::signed_bytes(reinterpret_cast<const uint8_t*>(w.zeros) + at) : V::zero();
    F sum[size_t(kM)][size_t(kSums)];
#pragma GCC unroll 8
    for (int m = 0; m < kM; ++m) {
#pragma GCC unroll 4
      for (int a = 0; a < kSums; ++a) sum[m][a] = V::zero();
    }
    for (int64_t k = begin; k < end; k += Step::kColumns, step += Step::kStepBytes) {
      // The end of the row may lie within a step: what is behind it must not be read.
      float edge[size_t(kM)][size_t(Step::kColumns)];
      const float* x = g.x + first_m * g.x_stride + k;
      int64_t stride = g.x_stride;
      if (k + Step::kColumns > w.k) {
        for (int m = 0; m < kM; ++m) {
          for (int64_t i = 0; i < Step::kColumns; ++i) edge[m][i] = k + i < w.k ? x[m * stride + i] : 0.0f;
        }
        x = edge[0];
        stride = Step::kColumns;
      }
      const typename V::Words places = V::load_words(step);
#pragma GCC unroll 16
      for (int line = 0; line < Step::kStepBytes; line += 64)
        __builtin_prefetch(step + line + kPrefetchBytes);
      const auto multiply = [&](int slot) __attribute__((always_inline)) {
        F value = Step::value(step, slot);
        if constexpr (kZeros) value = V::sub(value, zero);
        const typename V::Words place = V::shift(places, 2 * slot);
#pragma GCC unroll 8
        for (int m = 0; m < kM; ++m) {
          F& s = sum[m][slot % kSums];
          s = V::fma(value, V::pick(V::load_four(x + m * stride + slot / kN * 4), place), s);
        }
      };
      if constexpr (V::kUnrolls) {  // constant shifts
#pragma GCC unroll 16
        for (int slot = 0; slot < Step::kSlots; ++slot) multiply(slot);
      } else {
#pragma GCC unroll 1
        for (int slot = 0; slot < Step::kSlots; ++slot) multiply(slot);
      }
    }
#pragma GCC unroll 8
    for (int m = 0; m < kM; ++m) {
      F part = V::add(sum[m][0], sum[m][1]);
      if constexpr (kSums == 4) part = V::add(part, V::add(sum[m][2], sum[m][3]));
      total[m] = w.scales == nullptr ? V::add(total[m], part)
                                     : V::fma(load_scale<V>(w.scales, w.half_scales, at), part, total[m]);
    }
  }
  const int64_t column = tile * kWidth;
  const float* bias = g.bias == nullptr ? nullptr : g.bias + column;
  for (int m = 0; m < kM; ++m) {
    finish<V>(total[m], bias, g.out + (first_m + m) * g.out_stride + column, w.n - column, g.accumulate);
  }
}

// Calls f<kM>(first_m) for all activation rows: four, two or one at a time.
template <class Function>
inline __attribute__((always_inline)) void for_row_groups(int64_t rows, const Function& f) {
  int64_t m = 0;
  for (; m + 4 <= rows; m += 4) f.template operator()<4>(m);
  for (; m + 2 <= rows; m += 2) f.template operator()<2>(m);
  if (m < rows) f.template operator()<1>(m);
}

template <class V, class Slot, int kN>
void of_four_gemv(const SparseGemv& g) {
  for (int64_t tile = g.begin; tile < g.end; ++tile) {
    for_row_groups(g.m, [&]<int kM>(int64_t m) {
      if constexpr (Slot::kHasCodes) {
        if (g.weight->zeros != nullptr) return of_four_tile<V, Slot, kN, true, kM>(g, tile, m);
      }
      of_four_tile<V, Slot, kN, false, kM>(g, tile, m);
    });
  }
}

// One tile to columns [0, width) of a panel whose rows are 2 * width apart.
template <class V, class Slot, int kN>
void of_four_expand_tile(const SparseMatrix& w, int64_t tile, int64_t k0, int64_t kc, float* panel) {
  using F = typename V::F;
  using Step = OfFour<V, Slot, kN>;
  constexpr int kWidth = V::kWidth;
  int64_t k = k0;
  while (k < k0 + kc) {
    const int64_t group = k / w.group_width, begin = group * w.group_width;
    const int64_t group_end = begin + w.group_width < k0 + kc ? begin + w.group_width : k0 + kc;
    const int64_t at = (tile * w.groups + group) * kWidth;
    const F scale = w.scales == nullptr ? V::set1(1.0f) : load_scale<V>(w.scales, w.half_scales, at);
    const F zero =
        w.zeros == nullptr ? V::zero() : V::signed_bytes(reinterpret_cast<const uint8_t*>(w.zeros) + at);
    const int64_t index = (k - begin) / Step::kColumns, first = begin + index * Step::kColumns;
    const uint8_t* step = w.data + tile * w.tile_bytes + group * w.group_bytes + index * Step::kStepBytes;
    const int64_t end = first + Step::kColumns < group_end ? first + Step::kColumns : group_end;
    const typename V::Words places = V::load_words(step);
    const int last = int(end - first);
    for (int four = int(k - first) / 4; 4 * four < last; ++four) {
      F column[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
      for (int slot = four * kN; slot < (four + 1) * kN; ++slot) {
        const F value = V::mul(scale, V::sub(Step::value(step, slot), zero));
        const typename V::Words place = V::low_two(V::shift(places, 2 * slot));
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) column[i] = V::where_equal(place, i, value, column[i]);
      }
      for (int i = 0; i < 4 && 4 * four + i < last; ++i) {
        V::store(panel + (first + 4 * four + i - k0) * 2 * kWidth, column[i]);
      }
    }
    k = end;
  }
}

template <class V, class Slot, int kN>
void of_four_expand(const SparseMatrix& w, int64_t n0, int64_t k0, int64_t kc, float* panel) {
  constexpr int kWidth = V::kWidth;
  of_four_expand_tile<V, Slot, kN>(w, n0 / kWidth, k0, kc, panel);
  if (n0 + kWidth < w.n) return of_four_expand_tile<V, Slot, kN>(w, n0 / kWidth + 1, k0, kc, panel + kWidth);
  for (int64_t k = 0; k < kc; ++k) V::store(panel + (2 * k + 1) * kWidth, V::zero());
}

}  // namespace pare::cpu::body
