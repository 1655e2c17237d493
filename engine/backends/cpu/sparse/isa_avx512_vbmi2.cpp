// engine/backends/cpu/sparse/isa_avx512_vbmi2.cpp: the sparse kernels for AVX-512 with VBMI2: 32 values of 16
// bits or 64 codes are expanded at once, before they become floats. Same bytes as isa_avx512.cpp.
#define PARE_SPARSE_NAMESPACE sparse_avx512_vbmi2
#include "engine/backends/cpu/sparse/sparse_table.h"
#include "engine/backends/cpu/sparse/vec_avx512.h"

namespace pare::cpu::sparse_avx512_vbmi2 {
namespace {

struct NoFill {};

__m512i expand_halves(uint32_t mask, const uint8_t* from) {
  return _mm512_mask_expand_epi16(new_zeros(), mask, in_register(_mm512_loadu_si512(from)));
}

struct F32 {
  static constexpr bool kHasCodes = false;
  static constexpr int kVectors = 2, kInterleave = 1;
  static constexpr int kLinesPerInput = 2;
  using Mask = uint32_t;
  using Fill = NoFill;
  static Fill fill(const int8_t*) { return {}; }
  static void take(Mask mask, const uint8_t*& from, Fill, __m512 (&value)[2]) {
    const uint8_t* second = from + 4 * __builtin_popcount(mask & 0xffffu);
    value[0] = _mm512_castsi512_ps(
        _mm512_mask_expand_epi32(new_zeros(), __mmask16(mask), in_register(_mm512_loadu_si512(from))));
    value[1] = _mm512_castsi512_ps(_mm512_mask_expand_epi32(new_zeros(), __mmask16(mask >> 16),
                                                            in_register(_mm512_loadu_si512(second))));
    from += 4 * __builtin_popcount(mask);
  }
};

// Rows 0 to 15 are the even, rows 16 to 31 the odd halves.
struct Bf16 {
  static constexpr bool kHasCodes = false;
  static constexpr int kVectors = 2, kInterleave = 2;
  static constexpr int kLinesPerInput = 1;
  using Mask = uint32_t;
  using Fill = NoFill;
  static Fill fill(const int8_t*) { return {}; }
  static void take(Mask mask, const uint8_t*& from, Fill, __m512 (&value)[2]) {
    const __m512i halves = expand_halves(mask, from);
    value[0] = Vector::low_bf16(halves);
    value[1] = Vector::high_bf16(halves);
    from += 2 * __builtin_popcount(mask);
  }
};

struct F16 {
  static constexpr bool kHasCodes = false;
  static constexpr int kVectors = 2, kInterleave = 1;
  static constexpr int kLinesPerInput = 1;
  using Mask = uint32_t;
  using Fill = NoFill;
  static Fill fill(const int8_t*) { return {}; }
  static void take(Mask mask, const uint8_t*& from, Fill, __m512 (&value)[2]) {
    const __m512i halves = expand_halves(mask, from);
    value[0] = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
    value[1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
    from += 2 * __builtin_popcount(mask);
  }
};

// The zero points in the order of the bits: byte 4 j + v is row 16 v + j.
__m512i bytes_of_rows(const int8_t* zeros, int keep) {
  alignas(64) int8_t bytes[64];
  for (int j = 0; j < 16; ++j) {
    for (int v = 0; v < 4; ++v)
      bytes[4 * j + v] = zeros == nullptr ? int8_t(0) : int8_t(zeros[16 * v + j] & keep);
  }
  return _mm512_load_si512(bytes);
}

struct Byte {
  static constexpr bool kHasCodes = true;
  static constexpr int kVectors = 4, kInterleave = 4;
  static constexpr int kLinesPerInput = 1;
  using Mask = uint64_t;
  using Fill = __m512i;
  static Fill fill(const int8_t* zeros) { return bytes_of_rows(zeros, 0xff); }
  static void take(Mask mask, const uint8_t*& from, Fill fill, __m512 (&value)[4]) {
    const __m512i codes =
        _mm512_mask_expand_epi8(in_register(fill), mask, in_register(_mm512_loadu_si512(from)));
    value[0] = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(codes, 24), 24));
    value[1] = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(codes, 16), 24));
    value[2] = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(codes, 8), 24));
    value[3] = _mm512_cvtepi32_ps(_mm512_srai_epi32(codes, 24));
    from += __builtin_popcountll(mask);
  }
};

struct Nibble {
  static constexpr bool kHasCodes = true;
  static constexpr int kVectors = 4, kInterleave = 4;
  static constexpr int kLinesPerInput = 1;
  using Mask = uint64_t;
  using Fill = __m512i;
  static Fill fill(const int8_t* zeros) { return bytes_of_rows(zeros, 0x0f); }
  static void take(Mask mask, const uint8_t*& from, Fill fill, __m512 (&value)[4]) {
    const __m512i pairs = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    const __m512i nibbles =
        _mm512_and_si512(_mm512_or_si512(pairs, _mm512_slli_epi16(pairs, 4)), _mm512_set1_epi8(15));
    const __m512i codes = _mm512_mask_expand_epi8(in_register(fill), mask, nibbles);
    value[0] = Vector::signed_low_nibble(codes);
    value[1] = Vector::signed_low_nibble(_mm512_srli_epi32(codes, 8));
    value[2] = Vector::signed_low_nibble(_mm512_srli_epi32(codes, 16));
    value[3] = Vector::signed_low_nibble(_mm512_srli_epi32(codes, 24));
    from += (__builtin_popcountll(mask) + 1) / 2;
  }
};

struct Masked {
  using F32 = sparse_avx512_vbmi2::F32;
  using Bf16 = sparse_avx512_vbmi2::Bf16;
  using F16 = sparse_avx512_vbmi2::F16;
  using Byte = sparse_avx512_vbmi2::Byte;
  using Nibble = sparse_avx512_vbmi2::Nibble;
};

}  // namespace

constinit const SparseKernels kKernels = body::make_sparse_kernels<Vector, Masked>("avx512 vbmi2");

}  // namespace pare::cpu::sparse_avx512_vbmi2
