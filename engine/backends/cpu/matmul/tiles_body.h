// engine/backends/cpu/matmul/tiles_body.h: codes to floats, and products with few activation rows, over a
// vector class.
//
// One lane is one output row, so an activation is broadcast to all lanes, nothing is summed across lanes, and
// the scales of a group are one vector. Per word vector: one shift and one look-up (or conversion) per code,
// one multiply-add per code and activation row.
#pragma once

#include <cstdint>
#include <utility>

#include "engine/backends/cpu/matmul/gemm_body.h"
#include "engine/backends/cpu/matmul/level.h"

namespace pare::cpu::body {

// Codes in 32-bit words. V::IntCodes<kBits> and V::TableCodes turn code J of a word vector into floats.
template <class V, int kBitsPerCode, class Codes>
struct WordForm {
  static constexpr int kPerStep = 32 / kBitsPerCode;  // codes of one lane of a load
  static constexpr int kStepBytes = 4 * V::kWidth;
  using Loaded = typename V::Words;
  Codes codes;
  explicit WordForm(const float* table) : codes(table) {}
  static Loaded load(const uint8_t* p) { return V::load_words(p); }
  template <int kIndex>
  typename V::F get(const Loaded& words, const uint8_t*) const {
    return codes.template get<kIndex>(words);
  }
  typename V::F get_at(const uint8_t* p, int index) const {
    return codes.template get<0>(V::shift_words(V::load_words(p), index * kBitsPerCode));
  }
};

// One byte per code; four codes per step keep four sums busy.
template <class V, class Convert>
struct ByteForm {
  static constexpr int kPerStep = 4;
  static constexpr int kStepBytes = 4 * V::kWidth;
  struct Loaded {};
  explicit ByteForm(const float*) {}
  static Loaded load(const uint8_t*) { return {}; }
  template <int kIndex>
  typename V::F get(const Loaded&, const uint8_t* p) const {
    return Convert::convert(p + kIndex * V::kWidth);
  }
  typename V::F get_at(const uint8_t* p, int index) const { return Convert::convert(p + index * V::kWidth); }
};

template <class V>
struct SignedBytes {
  static typename V::F convert(const uint8_t* p) { return V::signed_bytes(p); }
};
template <class V>
struct E4m3Bytes {
  static typename V::F convert(const uint8_t* p) { return V::e4m3_bytes(p); }
};

template <class V>
inline __attribute__((always_inline)) typename V::F load_scale(const void* scales, bool half, int64_t index) {
  if (half) return V::load_f16(static_cast<const uint16_t*>(scales) + index);
  return V::load(static_cast<const float*>(scales) + index);
}

// Calls f.template operator()<0>() ... <kCount - 1>().
template <int kCount, class Function>
inline __attribute__((always_inline)) void unrolled(const Function& f) {
  [&]<int... kIndex>(std::integer_sequence<int, kIndex...>) __attribute__((always_inline)) {
    (f.template operator()<kIndex>(), ...);
  }
  (std::make_integer_sequence<int, kCount>{});
}

// kM activation rows with one tile. Every group has kSums partial sums (code index modulo kSums).
template <class V, class Form, int kM>
inline void tile_product(const TileGemv& g, const Form& form, int64_t tile, int64_t first_m) {
  using F = typename V::F;
  constexpr int kWidth = V::kWidth;
  constexpr int kSums = kM == 1 ? 4 : 2;
  const TileMatrix& w = *g.weight;
  F total[size_t(kM)];
#pragma GCC unroll 8
  for (int m = 0; m < kM; ++m) total[m] = V::zero();
  const float* x_row = g.x + first_m * g.x_stride;
  for (int64_t group = 0; group < w.groups; ++group) {
    const int64_t begin = group * w.group_width;
    const int64_t count = w.k - begin < w.group_width ? w.k - begin : w.group_width;
    const uint8_t* codes = w.codes + tile * w.tile_bytes + group * w.group_bytes;
    const float* x = x_row + begin;
    F sum[size_t(kM)][size_t(kSums)];
#pragma GCC unroll 8
    for (int m = 0; m < kM; ++m) {
#pragma GCC unroll 4
      for (int a = 0; a < kSums; ++a) sum[m][a] = V::zero();
    }
    int64_t k = 0;
    for (; k + Form::kPerStep <= count; k += Form::kPerStep) {
      __builtin_prefetch(codes + kPrefetchBytes);
      const typename Form::Loaded loaded = Form::load(codes);
      unrolled<Form::kPerStep>([&]<int kIndex>() __attribute__((always_inline)) {
        const F value = form.template get<kIndex>(loaded, codes);
#pragma GCC unroll 8
        for (int m = 0; m < kM; ++m) {
          F& s = sum[m][kIndex % kSums];
          s = V::fma(value, V::set1(x[m * g.x_stride + k + kIndex]), s);
        }
      });
      codes += Form::kStepBytes;
    }
    for (int index = 0; k < count; ++k, ++index) {
      const F value = form.get_at(codes, index);
#pragma GCC unroll 8
      for (int m = 0; m < kM; ++m) sum[m][0] = V::fma(value, V::set1(x[m * g.x_stride + k]), sum[m][0]);
    }
    const int64_t at = (tile * w.groups + group) * kWidth;
    const F scale = load_scale<V>(w.scales, w.half_scales, at);
#pragma GCC unroll 8
    for (int m = 0; m < kM; ++m) {
      F part = V::add(sum[m][0], sum[m][1]);
      if constexpr (kSums == 4) part = V::add(part, V::add(sum[m][2], sum[m][3]));
      if (w.extra != TileMatrix::Extra::none) {
        const F x_sum = V::set1(g.sums[(first_m + m) * w.groups + group]);
        if (w.extra == TileMatrix::Extra::zero_point) {
          const F zero =
              V::sub(V::unsigned_bytes(static_cast<const uint8_t*>(w.extras) + at), V::set1(w.center));
          part = V::sub(part, V::mul(zero, x_sum));
        } else {
          part = V::fma(V::set1(w.center), x_sum, part);
          total[m] = V::fma(load_scale<V>(w.extras, w.half_scales, at), x_sum, total[m]);
        }
      }
      total[m] = V::fma(scale, part, total[m]);
    }
  }
  const int64_t column = tile * kWidth;
  const float* bias = g.bias == nullptr ? nullptr : g.bias + column;
  for (int m = 0; m < kM; ++m) {
    finish<V>(total[m], bias, g.out + (first_m + m) * g.out_stride + column, w.n - column, g.accumulate);
  }
}

template <class V, class Form>
void tile_gemv(const TileGemv& g) {
  const Form form(g.weight->table);
  for (int64_t tile = g.begin; tile < g.end; ++tile) {
    int64_t m = 0;
    for (; m + 4 <= g.m; m += 4) tile_product<V, Form, 4>(g, form, tile, m);
    switch (g.m - m) {
      case 3:
        tile_product<V, Form, 3>(g, form, tile, m);
        break;
      case 2:
        tile_product<V, Form, 2>(g, form, tile, m);
        break;
      case 1:
        tile_product<V, Form, 1>(g, form, tile, m);
        break;
      default:
        break;
    }
  }
}

// scale * (code - zero), or minimum + scale * code: what QuantizedTensor::dequantize computes.
template <class V, class Form>
void expand_tile(const TileMatrix& w, int64_t tile, int64_t k0, int64_t kc, float* panel) {
  using F = typename V::F;
  constexpr int kWidth = V::kWidth;
  constexpr int kPerStep = Form::kPerStep;
  const Form form(w.table);
  int64_t k = k0;
  while (k < k0 + kc) {
    const int64_t group = k / w.group_width;
    const int64_t begin = group * w.group_width;
    int64_t end = begin + w.group_width < k0 + kc ? begin + w.group_width : k0 + kc;
    const int64_t at = (tile * w.groups + group) * kWidth;
    const F scale = load_scale<V>(w.scales, w.half_scales, at);
    F shift = V::zero(), minimum = V::zero();  // value = scale * (code + shift) + minimum
    if (w.extra == TileMatrix::Extra::zero_point) {
      shift = V::sub(V::set1(w.center), V::unsigned_bytes(static_cast<const uint8_t*>(w.extras) + at));
    } else if (w.extra == TileMatrix::Extra::minimum) {
      shift = V::set1(w.center);
      minimum = load_scale<V>(w.extras, w.half_scales, at);
    }
    const uint8_t* codes = w.codes + tile * w.tile_bytes + group * w.group_bytes;
    codes += (k - begin) / kPerStep * Form::kStepBytes;
    const auto value = [&](F code) { return V::add(V::mul(scale, V::add(code, shift)), minimum); };
    for (int index = int((k - begin) % kPerStep); index != 0 && k < end;
         ++k) {  // rest of a step begun earlier
      V::store(panel + (k - k0) * 2 * kWidth, value(form.get_at(codes, index)));
      if (++index == kPerStep) {
        index = 0;
        codes += Form::kStepBytes;
      }
    }
    for (; k + kPerStep <= end; k += kPerStep) {
      const typename Form::Loaded loaded = Form::load(codes);
      float* to = panel + (k - k0) * 2 * kWidth;
      unrolled<kPerStep>([&]<int kIndex>() __attribute__((always_inline)) {
        V::store(to + kIndex * 2 * kWidth, value(form.template get<kIndex>(loaded, codes)));
      });
      codes += Form::kStepBytes;
    }
    for (int index = 0; k < end; ++k, ++index) {
      V::store(panel + (k - k0) * 2 * kWidth, value(form.get_at(codes, index)));
    }
  }
}

}  // namespace pare::cpu::body
