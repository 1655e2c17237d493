// engine/backends/cpu/vec_avx512.h: 16 floats of AVX-512 and the operations that the kernel bodies are
// written over.
//
// Every level has the same names; vec_generic.h states what each means. Only isa_avx512.cpp includes this.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define PARE_INLINE [[gnu::always_inline]] inline

namespace pare::cpu::PARE_ISA_NAMESPACE {

constexpr bool kFuses = true;
constexpr int64_t kLanes = 16;
constexpr int64_t kTileRows = 6;  // 6 x 4 accumulators, 4 columns, 1 broadcast: 29 of 32 registers
constexpr int64_t kTileVecs = 4;

struct Vec {
  __m512 v;
};
struct Mask {
  __mmask16 m;
};
struct Wide {
  __m512d low, high;
};

PARE_INLINE __mmask16 first_lanes(int64_t n) {
  return __mmask16((1u << n) - 1u);
}

PARE_INLINE Vec zero() {
  return {_mm512_setzero_ps()};
}
PARE_INLINE Vec broadcast(float x) {
  return {_mm512_set1_ps(x)};
}
PARE_INLINE Vec load(const float* p) {
  return {_mm512_loadu_ps(p)};
}
PARE_INLINE Vec load_partial(const float* p, int64_t n) {
  return {_mm512_maskz_loadu_ps(first_lanes(n), p)};
}
PARE_INLINE void store(float* p, Vec a) {
  _mm512_storeu_ps(p, a.v);
}
PARE_INLINE void store_partial(float* p, Vec a, int64_t n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), a.v);
}
PARE_INLINE Vec load_bf16(const uint16_t* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
PARE_INLINE Vec load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}

PARE_INLINE Vec operator+(Vec a, Vec b) {
  return {_mm512_add_ps(a.v, b.v)};
}
PARE_INLINE Vec operator-(Vec a, Vec b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
PARE_INLINE Vec operator*(Vec a, Vec b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
PARE_INLINE Vec operator/(Vec a, Vec b) {
  return {_mm512_div_ps(a.v, b.v)};
}
PARE_INLINE Vec multiply_add(Vec a, Vec b, Vec c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
PARE_INLINE Vec subtract_product(Vec a, Vec b, Vec c) {
  return {_mm512_fnmadd_ps(a.v, b.v, c.v)};
}
PARE_INLINE Vec square_root(Vec a) {
  return {_mm512_sqrt_ps(a.v)};
}
PARE_INLINE Vec max_or_second(Vec a, Vec b) {
  return {_mm512_max_ps(a.v, b.v)};
}
PARE_INLINE Vec min_or_second(Vec a, Vec b) {
  return {_mm512_min_ps(a.v, b.v)};
}
PARE_INLINE Vec round_even(Vec a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
PARE_INLINE Vec scale_power2(Vec a, Vec n) {
  return {_mm512_scalef_ps(a.v, n.v)};
}
PARE_INLINE Vec exponent(Vec a) {
  return {_mm512_getexp_ps(a.v)};
}
PARE_INLINE Vec bits_and(Vec a, uint32_t bits) {
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(int32_t(bits))))};
}
PARE_INLINE Vec bits_or(Vec a, Vec b) {
  return {_mm512_or_ps(a.v, b.v)};
}

PARE_INLINE Mask less(Vec a, Vec b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)};
}
PARE_INLINE Mask equal(Vec a, Vec b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)};
}
PARE_INLINE Mask mask_of_bits(uint32_t bits) {
  return {__mmask16(bits)};
}
PARE_INLINE bool any(Mask m) {
  return m.m != 0;
}
PARE_INLINE Vec select(Mask m, Vec yes, Vec no) {
  return {_mm512_mask_blend_ps(m.m, no.v, yes.v)};
}

PARE_INLINE float reduce_add(Vec a) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
}
PARE_INLINE float reduce_max(Vec a) {
  const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 pair = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_max_ss(pair, _mm_movehdup_ps(pair)));
}

PARE_INLINE Wide wide_zero() {
  return {_mm512_setzero_pd(), _mm512_setzero_pd()};
}
PARE_INLINE Wide wide_broadcast(double x) {
  return {_mm512_set1_pd(x), _mm512_set1_pd(x)};
}
PARE_INLINE Wide widen(Vec a) {
  return {_mm512_cvtps_pd(_mm512_castps512_ps256(a.v)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1))};
}
PARE_INLINE Vec narrow(Wide a) {
  return {_mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(a.low)), _mm512_cvtpd_ps(a.high), 1)};
}
PARE_INLINE Wide operator+(Wide a, Wide b) {
  return {_mm512_add_pd(a.low, b.low), _mm512_add_pd(a.high, b.high)};
}
PARE_INLINE Wide operator-(Wide a, Wide b) {
  return {_mm512_sub_pd(a.low, b.low), _mm512_sub_pd(a.high, b.high)};
}
PARE_INLINE Wide multiply_add(Wide a, Wide b, Wide c) {
  return {_mm512_fmadd_pd(a.low, b.low, c.low), _mm512_fmadd_pd(a.high, b.high, c.high)};
}
PARE_INLINE double reduce_add(Wide a) {
  const __m512d sum = _mm512_add_pd(a.low, a.high);
  const __m256d half = _mm256_add_pd(_mm512_castpd512_pd256(sum), _mm512_extractf64x4_pd(sum, 1));
  const __m128d pair = _mm_add_pd(_mm256_castpd256_pd128(half), _mm256_extractf128_pd(half, 1));
  return _mm_cvtsd_f64(_mm_add_sd(pair, _mm_unpackhi_pd(pair, pair)));
}

// out[c * out_stride + r] = x[r * stride + c], r, c < 16: exchange within 4 x 4 blocks, then of blocks.
PARE_INLINE void transpose_square(const float* x, int64_t stride, float* out, int64_t out_stride) {
  __m512 t[16];
  __m512 u[16];
  for (int r = 0; r < 16; ++r) t[r] = _mm512_loadu_ps(x + r * stride);
  for (int r = 0; r < 16; r += 4) {
    const __m512 a = _mm512_unpacklo_ps(t[r], t[r + 1]);
    const __m512 b = _mm512_unpackhi_ps(t[r], t[r + 1]);
    const __m512 c = _mm512_unpacklo_ps(t[r + 2], t[r + 3]);
    const __m512 d = _mm512_unpackhi_ps(t[r + 2], t[r + 3]);
    u[r] = _mm512_shuffle_ps(a, c, 0x44);      // columns 0, 4, 8, 12 of rows r .. r + 3
    u[r + 1] = _mm512_shuffle_ps(a, c, 0xee);  // columns 1, 5, 9, 13
    u[r + 2] = _mm512_shuffle_ps(b, d, 0x44);
    u[r + 3] = _mm512_shuffle_ps(b, d, 0xee);
  }
  for (int c = 0; c < 4; ++c) {
    const __m512 a = _mm512_shuffle_f32x4(u[c], u[c + 4], 0x88);  // columns c, c + 8 of rows 0 .. 7
    const __m512 b = _mm512_shuffle_f32x4(u[c], u[c + 4], 0xdd);  // columns c + 4, c + 12
    const __m512 d = _mm512_shuffle_f32x4(u[c + 8], u[c + 12], 0x88);
    const __m512 e = _mm512_shuffle_f32x4(u[c + 8], u[c + 12], 0xdd);
    _mm512_storeu_ps(out + c * out_stride, _mm512_shuffle_f32x4(a, d, 0x88));
    _mm512_storeu_ps(out + (c + 4) * out_stride, _mm512_shuffle_f32x4(b, e, 0x88));
    _mm512_storeu_ps(out + (c + 8) * out_stride, _mm512_shuffle_f32x4(a, d, 0xdd));
    _mm512_storeu_ps(out + (c + 12) * out_stride, _mm512_shuffle_f32x4(b, e, 0xdd));
  }
}

}  // namespace pare::cpu::PARE_ISA_NAMESPACE
