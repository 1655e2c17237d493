// engine/backends/cpu/matmul/isa_avx512.cpp: the matrix kernels for AVX-512 F, BW, VL, DQ.
#include <immintrin.h>

#include <utility>

#include "engine/backends/cpu/matmul/level_table.h"

namespace pare::cpu::avx512 {

struct Vector {
  static constexpr int kWidth = 16;
  using F = __m512;
  using Words = __m512i;

  static F zero() { return _mm512_setzero_ps(); }
  static F set1(float value) { return _mm512_set1_ps(value); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F value) { _mm512_storeu_ps(p, value); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F load_bf16(const uint16_t* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  static F load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static float sum(F v) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

  static Words load_words(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static Words shift_words(Words words, int bits) { return _mm512_srl_epi32(words, _mm_cvtsi32_si128(bits)); }
  // The permutation reads only the low four bits of an index, so a shift brings the code into place.
  template <int kBits>
  struct WordCodes {
    F table;
    explicit WordCodes(const float* values) : table(_mm512_loadu_ps(values)) {}
    template <int kIndex>
    F get(Words words) const {
      return _mm512_permutexvar_ps(kIndex == 0 ? words : _mm512_srli_epi32(words, kIndex * kBits), table);
    }
  };
  template <int kBits>
  using IntCodes = WordCodes<kBits>;
  using TableCodes = WordCodes<4>;

  static F signed_bytes(const uint8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static F unsigned_bytes(const uint8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  // Exponent and mantissa go where a float has them; 2^120 is the difference of the two biases (127 - 7).
  static F e4m3_bytes(const uint8_t* p) {
    const __m512i code = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m512i magnitude = _mm512_slli_epi32(_mm512_and_si512(code, _mm512_set1_epi32(0x7f)), 20);
    const __m512i sign = _mm512_and_si512(code, _mm512_set1_epi32(int(0x80000000u)));
    return _mm512_mul_ps(_mm512_castsi512_ps(_mm512_or_si512(magnitude, sign)), _mm512_set1_ps(0x1p120f));
  }

  static void transpose(F (&r)[16]) {
    F t[16];
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {  // 4 x 4 inside the 128-bit parts
      const F a = _mm512_unpacklo_ps(r[i], r[i + 1]), b = _mm512_unpackhi_ps(r[i], r[i + 1]);
      const F c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
      t[i] = _mm512_shuffle_ps(a, c, 0x44);
      t[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
      t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
      t[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {  // 4 x 4 of the parts: part p of t[i + 4 q] is part q of result 4 p + i
      const F a = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88), b = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd);
      const F c = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88),
              d = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xdd);
      r[i] = _mm512_shuffle_f32x4(a, c, 0x88);
      r[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
      r[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
      r[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
  }
};

constinit const LevelKernels kKernels = body::make_level<Vector, 14>(320, 8, 8);

}  // namespace pare::cpu::avx512
