// engine/backends/cpu/vec_avx2.h: 8 floats of AVX2 with FMA and F16C. Names and meaning as in vec_generic.h;
// only isa_avx2.cpp includes this.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define PARE_INLINE [[gnu::always_inline]] inline

namespace pare::cpu::PARE_ISA_NAMESPACE {

constexpr bool kFuses = true;
constexpr int64_t kLanes = 8;
constexpr int64_t kTileRows = 6;  // 6 x 2 accumulators, 2 columns, 1 broadcast: 15 of 16 registers
constexpr int64_t kTileVecs = 2;

struct Vec {
  __m256 v;
};
struct Mask {
  __m256 m;
};
struct Wide {
  __m256d low, high;
};

PARE_INLINE __m256i first_lanes(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(int32_t(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

PARE_INLINE Vec zero() {
  return {_mm256_setzero_ps()};
}
PARE_INLINE Vec broadcast(float x) {
  return {_mm256_set1_ps(x)};
}
PARE_INLINE Vec load(const float* p) {
  return {_mm256_loadu_ps(p)};
}
PARE_INLINE Vec load_partial(const float* p, int64_t n) {
  return {_mm256_maskload_ps(p, first_lanes(n))};
}
PARE_INLINE void store(float* p, Vec a) {
  _mm256_storeu_ps(p, a.v);
}
PARE_INLINE void store_partial(float* p, Vec a, int64_t n) {
  _mm256_maskstore_ps(p, first_lanes(n), a.v);
}
PARE_INLINE Vec load_bf16(const uint16_t* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
}
PARE_INLINE Vec load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}

PARE_INLINE Vec operator+(Vec a, Vec b) {
  return {_mm256_add_ps(a.v, b.v)};
}
PARE_INLINE Vec operator-(Vec a, Vec b) {
  return {_mm256_sub_ps(a.v, b.v)};
}
PARE_INLINE Vec operator*(Vec a, Vec b) {
  return {_mm256_mul_ps(a.v, b.v)};
}
PARE_INLINE Vec operator/(Vec a, Vec b) {
  return {_mm256_div_ps(a.v, b.v)};
}
PARE_INLINE Vec multiply_add(Vec a, Vec b, Vec c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
PARE_INLINE Vec subtract_product(Vec a, Vec b, Vec c) {
  return {_mm256_fnmadd_ps(a.v, b.v, c.v)};
}
PARE_INLINE Vec square_root(Vec a) {
  return {_mm256_sqrt_ps(a.v)};
}
PARE_INLINE Vec max_or_second(Vec a, Vec b) {
  return {_mm256_max_ps(a.v, b.v)};
}
PARE_INLINE Vec min_or_second(Vec a, Vec b) {
  return {_mm256_min_ps(a.v, b.v)};
}
PARE_INLINE Vec round_even(Vec a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// In two factors, since 2^n itself may lie outside the normal range.
PARE_INLINE Vec scale_power2(Vec a, Vec n) {
  const __m256i whole = _mm256_cvtps_epi32(n.v);
  const __m256i first = _mm256_srai_epi32(whole, 1);
  const __m256i second = _mm256_sub_epi32(whole, first);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256 f = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(first, bias), 23));
  const __m256 s = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(second, bias), 23));
  return {_mm256_mul_ps(_mm256_mul_ps(a.v, f), s)};
}
PARE_INLINE Vec exponent(Vec a) {
  const __m256i whole = _mm256_srli_epi32(_mm256_castps_si256(a.v), 23);
  return {_mm256_cvtepi32_ps(_mm256_sub_epi32(whole, _mm256_set1_epi32(127)))};
}
PARE_INLINE Vec bits_and(Vec a, uint32_t bits) {
  return {_mm256_and_ps(a.v, _mm256_castsi256_ps(_mm256_set1_epi32(int32_t(bits))))};
}
PARE_INLINE Vec bits_or(Vec a, Vec b) {
  return {_mm256_or_ps(a.v, b.v)};
}

PARE_INLINE Mask less(Vec a, Vec b) {
  return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)};
}
PARE_INLINE Mask equal(Vec a, Vec b) {
  return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)};
}
PARE_INLINE Mask mask_of_bits(uint32_t bits) {
  const __m256i own = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i set = _mm256_and_si256(_mm256_set1_epi32(int32_t(bits)), own);
  return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(set, own))};
}
PARE_INLINE bool any(Mask m) {
  return _mm256_movemask_ps(m.m) != 0;
}
PARE_INLINE Vec select(Mask m, Vec yes, Vec no) {
  return {_mm256_blendv_ps(no.v, yes.v, m.m)};
}

PARE_INLINE float reduce_add(Vec a) {
  const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
}
PARE_INLINE float reduce_max(Vec a) {
  const __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 pair = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_max_ss(pair, _mm_movehdup_ps(pair)));
}

PARE_INLINE Wide wide_zero() {
  return {_mm256_setzero_pd(), _mm256_setzero_pd()};
}
PARE_INLINE Wide wide_broadcast(double x) {
  return {_mm256_set1_pd(x), _mm256_set1_pd(x)};
}
PARE_INLINE Wide widen(Vec a) {
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(a.v)), _mm256_cvtps_pd(_mm256_extractf128_ps(a.v, 1))};
}
PARE_INLINE Vec narrow(Wide a) {
  return {_mm256_set_m128(_mm256_cvtpd_ps(a.high), _mm256_cvtpd_ps(a.low))};
}
PARE_INLINE Wide operator+(Wide a, Wide b) {
  return {_mm256_add_pd(a.low, b.low), _mm256_add_pd(a.high, b.high)};
}
PARE_INLINE Wide operator-(Wide a, Wide b) {
  return {_mm256_sub_pd(a.low, b.low), _mm256_sub_pd(a.high, b.high)};
}
PARE_INLINE Wide multiply_add(Wide a, Wide b, Wide c) {
  return {_mm256_fmadd_pd(a.low, b.low, c.low), _mm256_fmadd_pd(a.high, b.high, c.high)};
}
PARE_INLINE double reduce_add(Wide a) {
  const __m256d sum = _mm256_add_pd(a.low, a.high);
  const __m128d pair = _mm_add_pd(_mm256_castpd256_pd128(sum), _mm256_extractf128_pd(sum, 1));
  return _mm_cvtsd_f64(_mm_add_sd(pair, _mm_unpackhi_pd(pair, pair)));
}

PARE_INLINE void transpose_square(const float* x, int64_t stride, float* out, int64_t out_stride) {
  __m256 u[8];
  for (int r = 0; r < 8; r += 4) {
    const __m256 t0 = _mm256_loadu_ps(x + r * stride);
    const __m256 t1 = _mm256_loadu_ps(x + (r + 1) * stride);
    const __m256 t2 = _mm256_loadu_ps(x + (r + 2) * stride);
    const __m256 t3 = _mm256_loadu_ps(x + (r + 3) * stride);
    const __m256 a = _mm256_unpacklo_ps(t0, t1);
    const __m256 b = _mm256_unpackhi_ps(t0, t1);
    const __m256 c = _mm256_unpacklo_ps(t2, t3);
    const __m256 d = _mm256_unpackhi_ps(t2, t3);
    u[r] = _mm256_shuffle_ps(a, c, 0x44);      // columns 0, 4 of rows r .. r + 3
    u[r + 1] = _mm256_shuffle_ps(a, c, 0xee);  // columns 1, 5
    u[r + 2] = _mm256_shuffle_ps(b, d, 0x44);
    u[r + 3] = _mm256_shuffle_ps(b, d, 0xee);
  }
  for (int c = 0; c < 4; ++c) {
    _mm256_storeu_ps(out + c * out_stride, _mm256_permute2f128_ps(u[c], u[c + 4], 0x20));
    _mm256_storeu_ps(out + (c + 4) * out_stride, _mm256_permute2f128_ps(u[c], u[c + 4], 0x31));
  }
}

}  // namespace pare::cpu::PARE_ISA_NAMESPACE
