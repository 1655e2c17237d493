// engine/backends/cpu/sparse/isa_avx512.cpp: the sparse kernels for AVX-512 F, BW, VL, DQ: 16 values become
// floats and are expanded as such.
#define PARE_SPARSE_NAMESPACE sparse_avx512
#include "engine/backends/cpu/sparse/sparse_table.h"
#include "engine/backends/cpu/sparse/vec_avx512.h"

namespace pare::cpu::sparse_avx512 {
namespace {

__m512 expand(__m512 removed, uint32_t mask, __m512 values) {
  return _mm512_mask_expand_ps(removed, __mmask16(mask & 0xffffu), values);
}

struct NoFill {};

// Load::load(p): 16 values of kBytes each.
template <class Load>
struct Values {
  static constexpr bool kHasCodes = false;
  static constexpr int kVectors = 2, kInterleave = 1;
  static constexpr int kLinesPerInput = Load::kBytes == 4 ? 2 : 1;
  using Mask = uint32_t;
  using Fill = NoFill;
  static Fill fill(const int8_t*) { return {}; }
  static void take(Mask mask, const uint8_t*& from, Fill, __m512 (&value)[2]) {
    const uint8_t* second = from + Load::kBytes * __builtin_popcount(mask & 0xffffu);
    value[0] = expand(_mm512_castsi512_ps(new_zeros()), mask, Load::load(from));
    value[1] = expand(_mm512_castsi512_ps(new_zeros()), mask >> 16, Load::load(second));
    from += Load::kBytes * __builtin_popcount(mask);
  }
};

struct LoadF32 {
  static constexpr int kBytes = 4;
  static __m512 load(const uint8_t* p) { return _mm512_castsi512_ps(in_register(_mm512_loadu_si512(p))); }
};
struct LoadBf16 {
  static constexpr int kBytes = 2;
  static __m512 load(const uint8_t* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return Vector::low_bf16(_mm512_cvtepu16_epi32(half));
  }
};
struct LoadF16 {
  static constexpr int kBytes = 2;
  static __m512 load(const uint8_t* p) { return Vector::load_f16_bytes(p); }
};

// Removed rows decode to the zero point of their row, if there is one.
struct Zeros {
  __m512 value[4];
};
Zeros zeros_of(const int8_t* zeros) {
  Zeros fill;
  for (int v = 0; v < 4; ++v) {
    fill.value[v] = zeros == nullptr ? _mm512_setzero_ps()
                                     : Vector::signed_bytes(reinterpret_cast<const uint8_t*>(zeros) + 16 * v);
  }
  return fill;
}

struct Byte {
  static constexpr bool kHasCodes = true;
  static constexpr int kVectors = 4, kInterleave = 1;
  static constexpr int kLinesPerInput = 1;
  using Mask = uint64_t;
  using Fill = Zeros;
  static Fill fill(const int8_t* zeros) { return zeros_of(zeros); }
  static void take(Mask mask, const uint8_t*& from, const Fill& fill, __m512 (&value)[4]) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      value[v] = expand(fill.value[v], uint32_t(mask >> (16 * v)), Vector::signed_bytes(from));
      from += __builtin_popcount(uint32_t(mask >> (16 * v)) & 0xffffu);
    }
  }
};

struct Nibble {
  static constexpr bool kHasCodes = true;
  static constexpr int kVectors = 4, kInterleave = 1;
  static constexpr int kLinesPerInput = 1;
  using Mask = uint64_t;
  using Fill = Zeros;
  static Fill fill(const int8_t* zeros) { return zeros_of(zeros); }
  static __m512 sixteen(const uint8_t* from, int nibble) {
    uint64_t low = 0;
    std::memcpy(&low, from + nibble / 2, sizeof low);
    const int shift = nibble % 2 * 4;
    const uint64_t next = from[nibble / 2 + 8];
    const uint64_t codes = (low >> shift) | (next << 1 << (63 - shift));
    const __m512i words = _mm512_inserti64x4(_mm512_set1_epi32(int(uint32_t(codes))),
                                             _mm256_set1_epi32(int(uint32_t(codes >> 32))), 1);
    const __m512i shifts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    return Vector::signed_low_nibble(_mm512_srlv_epi32(words, shifts));
  }
  static void take(Mask mask, const uint8_t*& from, const Fill& fill, __m512 (&value)[4]) {
    int nibble = 0;
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      value[v] = expand(fill.value[v], uint32_t(mask >> (16 * v)), sixteen(from, nibble));
      nibble += __builtin_popcount(uint32_t(mask >> (16 * v)) & 0xffffu);
    }
    from += (nibble + 1) / 2;
  }
};

struct Masked {
  using F32 = Values<LoadF32>;
  using Bf16 = Values<LoadBf16>;
  using F16 = Values<LoadF16>;
  using Byte = sparse_avx512::Byte;
  using Nibble = sparse_avx512::Nibble;
};

}  // namespace

constinit const SparseKernels kKernels = body::make_sparse_kernels<Vector, Masked>("avx512");

}  // namespace pare::cpu::sparse_avx512
