// engine/backends/cpu/sparse/vec_avx512.h: 16 floats of AVX-512 F, BW, VL, DQ for the sparse kernels.
// Included by the two AVX-512 levels, each with a namespace of its own in PARE_SPARSE_NAMESPACE.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace pare::cpu::PARE_SPARSE_NAMESPACE {

struct Vector {
  static constexpr int kWidth = 16;
  static constexpr bool kUnrolls = true;
  using F = __m512;
  using Words = __m512i;
  using Four = __m512;

  static F zero() { return _mm512_setzero_ps(); }
  static F set1(float value) { return _mm512_set1_ps(value); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F value) { _mm512_storeu_ps(p, value); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }

  static F load_bytes(const uint8_t* p) { return _mm512_castsi512_ps(_mm512_loadu_si512(p)); }
  static F load_f16_bytes(const uint8_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F low_bf16(Words words) { return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16)); }
  static F high_bf16(Words words) {
    return _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(int(0xffff0000u))));
  }
  static F signed_bytes(const uint8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  // The permutation reads the four lowest bits of a word.
  static F nibble_table() {
    return _mm512_setr_ps(0.0f, 1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f, 7.0f, -8.0f, -7.0f, -6.0f, -5.0f, -4.0f,
                          -3.0f, -2.0f, -1.0f);
  }
  static F signed_low_nibble(Words words) { return _mm512_permutexvar_ps(words, nibble_table()); }
  static F signed_nibble(Words words, int index) { return signed_low_nibble(shift(words, 4 * index)); }

  static Words load_words(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static Words shift(Words words, int bits) {
    return bits == 0 ? words : _mm512_srl_epi32(words, _mm_cvtsi32_si128(bits));
  }
  static Words low_two(Words words) { return _mm512_and_si512(words, _mm512_set1_epi32(3)); }
  static F where_equal(Words words, int value, F yes, F no) {
    return _mm512_mask_blend_ps(_mm512_cmpeq_epi32_mask(words, _mm512_set1_epi32(value)), no, yes);
  }
  // In every 128 bits the same four; the permutation within 128 bits reads two bits of a word.
  static Four load_four(const float* p) { return _mm512_broadcast_f32x4(_mm_loadu_ps(p)); }
  static F pick(Four four, Words words) { return _mm512_permutevar_ps(four, words); }
};

// A register of zeros that depends on nothing. Expanding with zeros for what is not kept still waits for the
// old value of its target on some processors (Zen 5: 8 cycles instead of 3 per input of a tile), so the
// target is made new; the compiler, which knows the masked form only, must not see through it.
[[gnu::always_inline]] inline __m512i new_zeros() {
  __m512i zeros;
  asm("vpxor %x0, %x0, %x0" : "=x"(zeros));
  return zeros;
}

// Keeps a load a load: expanding from memory is microcode, three times as slow as from a register.
[[gnu::always_inline]] inline __m512i in_register(__m512i value) {
  asm("" : "+v"(value));
  return value;
}

}  // namespace pare::cpu::PARE_SPARSE_NAMESPACE
