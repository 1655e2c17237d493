// engine/backends/cpu/vec_generic.h: four floats of the compiler's vector extension, for any x86-64 host.
// This is also the specification of the names that every level provides.
//
// There is no fused multiply-add at this level: multiply_add rounds twice, and kernels may not rely on
// either.
#pragma once

#include <bit>
#include <cstdint>

#define PARE_INLINE [[gnu::always_inline]] inline

namespace pare::cpu::PARE_ISA_NAMESPACE {

constexpr bool kFuses = false;  // whether multiply_add rounds once
constexpr int64_t kLanes = 4;
// Register tile of the attention products, rows x vectors.
constexpr int64_t kTileRows = 6;
constexpr int64_t kTileVecs = 2;

using Floats = float __attribute__((vector_size(16)));
using Integers = int32_t __attribute__((vector_size(16)));
using Doubles = double __attribute__((vector_size(16)));

struct Vec {
  Floats v;
};
struct Mask {
  Integers m;  // all bits of a lane, or none
};
struct Wide {  // the lanes of a Vec as doubles
  Doubles low, high;
};

PARE_INLINE Vec zero() {
  return {Floats{}};
}
PARE_INLINE Vec broadcast(float x) {
  return {Floats{x, x, x, x}};
}
PARE_INLINE Vec load(const float* p) {
  return {Floats{p[0], p[1], p[2], p[3]}};
}
// The first n lanes, 0 <= n <= kLanes; nothing beyond them is read or written. Other lanes are loaded as
// zero.
PARE_INLINE Vec load_partial(const float* p, int64_t n) {
  Vec a = zero();
  for (int64_t i = 0; i < n; ++i) a.v[i] = p[i];
  return a;
}
PARE_INLINE void store(float* p, Vec a) {
  for (int64_t i = 0; i < kLanes; ++i) p[i] = a.v[i];
}
PARE_INLINE void store_partial(float* p, Vec a, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = a.v[i];
}

// kLanes numbers of a narrow format, exactly.
PARE_INLINE Vec load_bf16(const uint16_t* p) {
  Vec a = zero();
  for (int64_t i = 0; i < kLanes; ++i) a.v[i] = std::bit_cast<float>(uint32_t(p[i]) << 16);
  return a;
}
PARE_INLINE float widen_f16(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000u) << 16;
  const uint32_t rest = uint32_t(bits & 0x7fffu) << 13;  // exponent and mantissa at their places in a float
  if (rest >= 0x0f800000u) return std::bit_cast<float>(sign | 0x70000000u | rest);  // infinity or NaN
  // Subnormals too: the product with 2^112 is exact.
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(std::bit_cast<float>(rest) * 0x1p112f));
}
PARE_INLINE Vec load_f16(const uint16_t* p) {
  Vec a = zero();
  for (int64_t i = 0; i < kLanes; ++i) a.v[i] = widen_f16(p[i]);
  return a;
}

PARE_INLINE Vec operator+(Vec a, Vec b) {
  return {a.v + b.v};
}
PARE_INLINE Vec operator-(Vec a, Vec b) {
  return {a.v - b.v};
}
PARE_INLINE Vec operator*(Vec a, Vec b) {
  return {a.v * b.v};
}
PARE_INLINE Vec operator/(Vec a, Vec b) {
  return {a.v / b.v};
}
PARE_INLINE Vec multiply_add(Vec a, Vec b, Vec c) {
  return {a.v * b.v + c.v};
}  // a b + c
PARE_INLINE Vec subtract_product(Vec a, Vec b, Vec c) {
  return {c.v - a.v * b.v};
}  // c - a b
PARE_INLINE Vec square_root(Vec a) {
  Vec root = zero();
  for (int64_t i = 0; i < kLanes; ++i) root.v[i] = __builtin_sqrtf(a.v[i]);
  return root;
}
// The larger (smaller) one; the second when either is NaN.
PARE_INLINE Vec max_or_second(Vec a, Vec b) {
  return {a.v > b.v ? a.v : b.v};
}
PARE_INLINE Vec min_or_second(Vec a, Vec b) {
  return {a.v < b.v ? a.v : b.v};
}
// The nearest integer, ties to even, for |a| < 2^22: the addition pushes the fraction out of the mantissa.
PARE_INLINE Vec round_even(Vec a) {
  const Floats magic = broadcast(0x1.8p23f).v;
  return {(a.v + magic) - magic};
}
// a 2^n for integers |n| <= 240, rounded once into the subnormal range; in two factors, since 2^n may lie
// outside.
PARE_INLINE Vec scale_power2(Vec a, Vec n) {
  const Integers whole = __builtin_convertvector(n.v, Integers);
  const Integers first = whole >> 1;
  const Integers second = whole - first;
  const Integers bias{127, 127, 127, 127};
  return {a.v * std::bit_cast<Floats>((first + bias) << 23) * std::bit_cast<Floats>((second + bias) << 23)};
}
// floor(log2 a) of a normal a > 0
PARE_INLINE Vec exponent(Vec a) {
  const Integers bias{127, 127, 127, 127};
  return {__builtin_convertvector((std::bit_cast<Integers>(a.v) >> 23) - bias, Floats)};
}
PARE_INLINE Vec bits_and(Vec a, uint32_t bits) {
  const int32_t b = int32_t(bits);
  return {std::bit_cast<Floats>(std::bit_cast<Integers>(a.v) & Integers{b, b, b, b})};
}
PARE_INLINE Vec bits_or(Vec a, Vec b) {
  return {std::bit_cast<Floats>(std::bit_cast<Integers>(a.v) | std::bit_cast<Integers>(b.v))};
}

PARE_INLINE Mask less(Vec a, Vec b) {
  return {a.v < b.v};
}  // false for NaN
PARE_INLINE Mask equal(Vec a, Vec b) {
  return {a.v == b.v};
}
// Lane i: bit i, low bit first.
PARE_INLINE Mask mask_of_bits(uint32_t bits) {
  const int32_t b = int32_t(bits);
  return {(Integers{b, b, b, b} & Integers{1, 2, 4, 8}) != Integers{}};
}
PARE_INLINE bool any(Mask m) {
  return (m.m[0] | m.m[1] | m.m[2] | m.m[3]) != 0;
}
PARE_INLINE Vec select(Mask m, Vec yes, Vec no) {
  return {m.m ? yes.v : no.v};
}

PARE_INLINE float reduce_add(Vec a) {
  return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
}
PARE_INLINE float reduce_max(Vec a) {
  const float even = a.v[0] > a.v[2] ? a.v[0] : a.v[2];
  const float odd = a.v[1] > a.v[3] ? a.v[1] : a.v[3];
  return even > odd ? even : odd;
}

PARE_INLINE Wide wide_zero() {
  return {Doubles{}, Doubles{}};
}
PARE_INLINE Wide wide_broadcast(double x) {
  return {Doubles{x, x}, Doubles{x, x}};
}
PARE_INLINE Wide widen(Vec a) {
  return {Doubles{double(a.v[0]), double(a.v[1])}, Doubles{double(a.v[2]), double(a.v[3])}};
}
PARE_INLINE Vec narrow(Wide a) {  // each lane rounded once
  return {Floats{float(a.low[0]), float(a.low[1]), float(a.high[0]), float(a.high[1])}};
}
PARE_INLINE Wide operator+(Wide a, Wide b) {
  return {a.low + b.low, a.high + b.high};
}
PARE_INLINE Wide operator-(Wide a, Wide b) {
  return {a.low - b.low, a.high - b.high};
}
PARE_INLINE Wide multiply_add(Wide a, Wide b, Wide c) {
  return {a.low * b.low + c.low, a.high * b.high + c.high};
}
PARE_INLINE double reduce_add(Wide a) {
  const Doubles sum = a.low + a.high;
  return sum[0] + sum[1];
}

// out[c * out_stride + r] = x[r * stride + c], r, c < kLanes.
PARE_INLINE void transpose_square(const float* x, int64_t stride, float* out, int64_t out_stride) {
  for (int64_t r = 0; r < kLanes; ++r) {
    for (int64_t c = 0; c < kLanes; ++c) out[c * out_stride + r] = x[r * stride + c];
  }
}

}  // namespace pare::cpu::PARE_ISA_NAMESPACE
