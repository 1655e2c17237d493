// engine/backends/cpu/matmul/isa_avx2.cpp: the matrix kernels for AVX2, FMA and F16C.
#include <immintrin.h>

#include <utility>

#include "engine/backends/cpu/matmul/level_table.h"

namespace pare::cpu::avx2 {

struct Vector {
  static constexpr int kWidth = 8;
  using F = __m256;
  using Words = __m256i;

  static F zero() { return _mm256_setzero_ps(); }
  static F set1(float value) { return _mm256_set1_ps(value); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F value) { _mm256_storeu_ps(p, value); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F load_bf16(const uint16_t* p) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
  static F load_f16(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static float sum(F v) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

  static Words load_words(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static Words shift_words(Words words, int bits) { return _mm256_srl_epi32(words, _mm_cvtsi32_si128(bits)); }
  // Shift the code to the top and back with its sign, then convert.
  template <int kBits>
  struct IntCodes {
    explicit IntCodes(const float*) {}
    template <int kIndex>
    F get(Words words) const {
      constexpr int kUp = 32 - kBits * (kIndex + 1);
      return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(words, kUp), 32 - kBits));
    }
  };
  // Two permutations of eight entries; bit 3 of the code chooses between them.
  struct TableCodes {
    F low, high;
    explicit TableCodes(const float* values)
        : low(_mm256_loadu_ps(values)), high(_mm256_loadu_ps(values + 8)) {}
    template <int kIndex>
    F get(Words words) const {
      const Words index = _mm256_srli_epi32(words, 4 * kIndex);
      const F choose = _mm256_castsi256_ps(_mm256_slli_epi32(words, 28 - 4 * kIndex));
      return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index),
                              choose);
    }
  };

  static F signed_bytes(const uint8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static F unsigned_bytes(const uint8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  // Exponent and mantissa go where a float has them; 2^120 is the difference of the two biases (127 - 7).
  static F e4m3_bytes(const uint8_t* p) {
    const __m256i code = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    const __m256i magnitude = _mm256_slli_epi32(_mm256_and_si256(code, _mm256_set1_epi32(0x7f)), 20);
    const __m256i sign = _mm256_and_si256(code, _mm256_set1_epi32(int(0x80000000u)));
    return _mm256_mul_ps(_mm256_castsi256_ps(_mm256_or_si256(magnitude, sign)), _mm256_set1_ps(0x1p120f));
  }

  static void transpose(F (&r)[8]) {
    F t[8];
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {  // 4 x 4 inside the 128-bit parts
      const F a = _mm256_unpacklo_ps(r[i], r[i + 1]), b = _mm256_unpackhi_ps(r[i], r[i + 1]);
      const F c = _mm256_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
      t[i] = _mm256_shuffle_ps(a, c, 0x44);
      t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
      t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
      t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      r[i] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x20);
      r[i + 4] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x31);
    }
  }
};

constinit const LevelKernels kKernels = body::make_level<Vector, 6>(256, 8, 4);

}  // namespace pare::cpu::avx2
