// engine/backends/cpu/sparse/isa_avx2.cpp: the sparse kernels for AVX2, FMA and F16C: eight values are
// brought to their rows by a byte shuffle from a table of all masks.
#include <immintrin.h>

#include <array>

#include "engine/backends/cpu/sparse/sparse_table.h"

namespace pare::cpu::sparse_avx2 {
namespace {

struct Vector {
  static constexpr int kWidth = 8;
  static constexpr bool kUnrolls = true;
  using F = __m256;
  using Words = __m256i;
  using Four = __m256;

  static F zero() { return _mm256_setzero_ps(); }
  static F set1(float value) { return _mm256_set1_ps(value); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F value) { _mm256_storeu_ps(p, value); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F load_f16(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }

  static F load_bytes(const uint8_t* p) {
    return _mm256_castsi256_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F load_f16_bytes(const uint8_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static F low_bf16(Words words) { return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16)); }
  static F high_bf16(Words words) {
    return _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(int(0xffff0000u))));
  }
  static F signed_bytes(const uint8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static F signed_nibble(Words words, int index) {
    const __m128i up = _mm_cvtsi32_si128(28 - 4 * index);
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_sll_epi32(words, up), 28));
  }

  static Words load_words(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static Words shift(Words words, int bits) {
    return bits == 0 ? words : _mm256_srl_epi32(words, _mm_cvtsi32_si128(bits));
  }
  static Words low_two(Words words) { return _mm256_and_si256(words, _mm256_set1_epi32(3)); }
  static F where_equal(Words words, int value, F yes, F no) {
    return _mm256_blendv_ps(no, yes,
                            _mm256_castsi256_ps(_mm256_cmpeq_epi32(words, _mm256_set1_epi32(value))));
  }
  static Four load_four(const float* p) { return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p)); }
  static F pick(Four four, Words words) { return _mm256_permutevar_ps(four, words); }
};

// By mask of eight: for each row which of the packed bytes it takes; 0x80 gives zero.
template <size_t kBytes>
constexpr auto shuffles() {
  std::array<std::array<uint8_t, 8 * kBytes>, 256> table{};
  for (size_t mask = 0; mask < 256; ++mask) {
    size_t taken = 0;
    for (size_t row = 0; row < 8; ++row) {
      const bool kept = (mask >> row & 1u) != 0;
      for (size_t i = 0; i < kBytes; ++i) {
        table[mask][row * kBytes + i] = kept ? uint8_t(taken * kBytes + i) : uint8_t{0x80};
      }
      taken += kept ? 1 : 0;
    }
  }
  return table;
}
alignas(64) constexpr auto kByteShuffles = shuffles<1>();
alignas(64) constexpr auto kHalfShuffles = shuffles<2>();

__m128i expand_halves(uint32_t mask, const uint8_t* from) {
  return _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)),
                          _mm_load_si128(reinterpret_cast<const __m128i*>(kHalfShuffles[mask].data())));
}
__m128i byte_shuffle(uint32_t mask) {
  return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kByteShuffles[mask].data()));
}

struct NoFill {};

// Load::expand(mask, p): up to eight values of kBytes each, at their rows.
template <class Load>
struct Values {
  static constexpr bool kHasCodes = false;
  static constexpr int kVectors = 2, kInterleave = 1;
  static constexpr int kLinesPerInput = Load::kBytes == 4 ? 2 : 1;
  using Mask = uint16_t;
  using Fill = NoFill;
  static Fill fill(const int8_t*) { return {}; }
  static void take(Mask mask, const uint8_t*& from, Fill, __m256 (&value)[2]) {
    const uint32_t low = mask & 0xffu, high = uint32_t(mask) >> 8;
    const uint8_t* second = from + Load::kBytes * __builtin_popcount(low);
    value[0] = Load::expand(low, from);
    value[1] = Load::expand(high, second);
    from = second + Load::kBytes * __builtin_popcount(high);
  }
};

struct LoadF32 {
  static constexpr int kBytes = 4;
  static __m256 expand(uint32_t mask, const uint8_t* from) {
    const __m256i places = _mm256_cvtepi8_epi32(byte_shuffle(mask));  // negative where removed
    return _mm256_andnot_ps(_mm256_castsi256_ps(_mm256_srai_epi32(places, 31)),
                            _mm256_permutevar8x32_ps(Vector::load_bytes(from), places));
  }
};
struct LoadBf16 {
  static constexpr int kBytes = 2;
  static __m256 expand(uint32_t mask, const uint8_t* from) {
    return Vector::low_bf16(_mm256_cvtepu16_epi32(expand_halves(mask, from)));
  }
};
struct LoadF16 {
  static constexpr int kBytes = 2;
  static __m256 expand(uint32_t mask, const uint8_t* from) {
    return _mm256_cvtph_ps(expand_halves(mask, from));
  }
};

// Eight codes as floats; removed rows have the zero point of their row, if there is one.
__m256 codes_at_rows(uint32_t mask, __m128i codes, const int8_t* zeros) {
  const __m128i shuffle = byte_shuffle(mask);
  __m128i bytes = _mm_shuffle_epi8(codes, shuffle);
  if (zeros != nullptr) {
    const __m128i fill = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(zeros));
    bytes = _mm_blendv_epi8(bytes, fill, shuffle);
  }
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}

struct Byte {
  static constexpr bool kHasCodes = true;
  static constexpr int kVectors = 4, kInterleave = 1;
  static constexpr int kLinesPerInput = 1;
  using Mask = uint32_t;
  using Fill = const int8_t*;
  static Fill fill(const int8_t* zeros) { return zeros; }
  static void take(Mask mask, const uint8_t*& from, Fill zeros, __m256 (&value)[4]) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const uint32_t eight = (mask >> (8 * v)) & 0xffu;
      value[v] = codes_at_rows(eight, _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)),
                               zeros == nullptr ? nullptr : zeros + 8 * v);
      from += __builtin_popcount(eight);
    }
  }
};

struct Nibble {
  static constexpr bool kHasCodes = true;
  static constexpr int kVectors = 4, kInterleave = 1;
  static constexpr int kLinesPerInput = 1;
  using Mask = uint32_t;
  using Fill = const int8_t*;
  static Fill fill(const int8_t* zeros) { return zeros; }
  static void take(Mask mask, const uint8_t*& from, Fill zeros, __m256 (&value)[4]) {
    int nibble = 0;
    const __m128i low_bits = _mm_set1_epi8(15), sign = _mm_set1_epi8(8);
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const uint32_t eight = (mask >> (8 * v)) & 0xffu;
      uint64_t word = 0;
      std::memcpy(&word, from + nibble / 2, sizeof word);
      const __m128i pairs = _mm_cvtsi64_si128(int64_t(word >> (nibble % 2 * 4)));
      const __m128i nibbles = _mm_unpacklo_epi8(_mm_and_si128(pairs, low_bits),
                                                _mm_and_si128(_mm_srli_epi16(pairs, 4), low_bits));
      // (code ^ 8) - 8 extends the sign of four bits
      value[v] = codes_at_rows(eight, _mm_sub_epi8(_mm_xor_si128(nibbles, sign), sign),
                               zeros == nullptr ? nullptr : zeros + 8 * v);
      nibble += __builtin_popcount(eight);
    }
    from += (nibble + 1) / 2;
  }
};

struct Masked {
  using F32 = Values<LoadF32>;
  using Bf16 = Values<LoadBf16>;
  using F16 = Values<LoadF16>;
  using Byte = sparse_avx2::Byte;
  using Nibble = sparse_avx2::Nibble;
};

}  // namespace

constinit const SparseKernels kKernels = body::make_sparse_kernels<Vector, Masked>("avx2");

}  // namespace pare::cpu::sparse_avx2
