// engine/backends/cpu/matmul/int8_body.h: rounding of activations and the register tile of integer products,
// over a vector class V. Included by isa_int8_<name>.cpp only; V's namespace keeps the symbols of the levels
// apart.
//
// V::kWidth lanes of int32, one output row each; V::Quad is a load of four codes per lane; V::dot adds the
// products of a quad with V::kWords words of activations. Sums wrap around, so intermediate values may leave
// int32 as long as the result fits, which IntegerSegments sees to.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/backends/cpu/matmul/int8_level.h"

namespace pare::cpu::body {

// Plain loops, which the compiler turns into vectors of the level.
template <class V>
int32_t largest_bits(const float* x, int64_t count) {
  int32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t bits = __builtin_bit_cast(int32_t, x[i]) & 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

// Adding and taking away 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bits of the
// mantissa.
template <class V>
int32_t round(const Int8Rounding& r) {
  constexpr float kShift = 12582912.0f;
  const float* x = r.x;
  int8_t* codes = r.codes;
  const float scale = r.scale, bottom = r.bottom, top = r.top;
  const int32_t offset = r.zero_point - __builtin_bit_cast(int32_t, kShift);
  int32_t sum = 0;
  for (int64_t i = 0; i < r.count; ++i) {
    float value = x[i] / scale;
    value = value < bottom ? bottom : value;
    value = value > top ? top : value;
    const int32_t code = __builtin_bit_cast(int32_t, value + kShift) + offset;
    codes[i] = int8_t(code);
    sum += code;
  }
  return sum;
}

// totals[lane] += (x_scale * scale) * float(acc - zero * x_sum - x_zero * sum)
template <int kLanes>
inline __attribute__((always_inline)) void finish_segment(const int32_t* acc, float x_scale, uint32_t x_zero,
                                                          uint32_t x_sum, const float* scales,
                                                          const int32_t* zeros, const int32_t* sums,
                                                          float* totals) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const uint32_t exact =
        uint32_t(acc[lane]) - uint32_t(zeros[lane]) * x_sum - x_zero * uint32_t(sums[lane]);
    totals[lane] += (x_scale * scales[lane]) * float(int32_t(exact));
  }
}

template <class V, int kRows, int kTiles>
void int8_tile(const Int8Tile& t) {
  constexpr int kWidth = V::kWidth;
  constexpr int kColumns = kTiles * kWidth;
  constexpr int64_t kPrefetch = 4096;  // what lies behind the end is only asked for, never read
  alignas(64) float totals[size_t(kRows)][size_t(kColumns)] = {};
  const int64_t tile_step = t.segments * kWidth;
  const uint8_t* codes = t.codes;
  const int32_t* x = t.x;
  int64_t segment = 0;
  for (int64_t group = 0; group < t.k; group += t.group_width) {
    const int64_t group_end = group + t.group_width < t.k ? group + t.group_width : t.k;
    for (int64_t begin = group; begin < group_end; begin += t.widest, ++segment) {
      const int64_t left = group_end - begin;
      const int64_t quads = ((left < t.widest ? left : t.widest) + 3) / 4;
      typename V::Acc acc[size_t(kRows)][size_t(kTiles)];
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
        for (int c = 0; c < kTiles; ++c) acc[r][c] = V::zero();
      }
      for (int64_t q = 0; q < quads; ++q) {
        typename V::Quad w[size_t(kTiles)];
#pragma GCC unroll 2
        for (int c = 0; c < kTiles; ++c) {
          if constexpr (kRows <= 4) __builtin_prefetch(codes + c * t.tile_bytes + kPrefetch);
          w[c] = V::load(codes + c * t.tile_bytes);
        }
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
          for (int c = 0; c < kTiles; ++c) acc[r][c] = V::dot(acc[r][c], w[c], x + r * V::kWords);
        }
        x += kRows * V::kWords;
        codes += 4 * kWidth;
      }
      alignas(64) int32_t lanes[size_t(kRows)][size_t(kColumns)];
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
        for (int c = 0; c < kTiles; ++c) V::store(lanes[r] + c * kWidth, acc[r][c]);
      }
      for (int c = 0; c < kTiles; ++c) {
        const int64_t at = c * tile_step + segment * kWidth;
        for (int r = 0; r < kRows; ++r) {
          finish_segment<kWidth>(lanes[r] + c * kWidth, t.x_scales[r], uint32_t(t.x_zeros[r]),
                                 uint32_t(t.x_sums[r * t.segments + segment]), t.scales + at, t.zeros + at,
                                 t.sums + at, totals[r] + c * kWidth);
        }
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    float* out = t.out + r * t.out_stride;
    for (int64_t c = 0; c < t.columns; ++c) {
      const float value = t.bias != nullptr ? totals[r][c] + t.bias[c] : totals[r][c];
      out[c] = t.accumulate ? out[c] + value : value;
    }
  }
}

template <class V, int kRows, int kEnd>
constexpr void fill_int8_tiles(Int8Kernels& kernels) {
  kernels.tile[0][kRows] = int8_tile<V, kRows, 1>;
  kernels.tile[1][kRows] = int8_tile<V, kRows, 2>;
  if constexpr (kRows < kEnd) fill_int8_tiles<V, kRows + 1, kEnd>(kernels);
}

template <class V, int kRows>
constexpr Int8Kernels make_int8_kernels(const char* name) {
  static_assert(kRows <= kMaxInt8Rows);
  Int8Kernels kernels = {};
  kernels.name = name;
  kernels.width = V::kWidth;
  kernels.rows = kRows;
  kernels.words = V::kWords;
  kernels.largest_bits = largest_bits<V>;
  kernels.round = round<V>;
  fill_int8_tiles<V, 1, kRows>(kernels);
  return kernels;
}

}  // namespace pare::cpu::body
