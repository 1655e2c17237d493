// engine/backends/cpu/matmul/isa_int8_avx2.cpp: the integer kernels for AVX2.
//
// vpmaddubsw would saturate (2 * 255 * 127 is beyond 16 bits), so codes and activations are widened to 16
// bits.
#include <immintrin.h>

#include "engine/backends/cpu/matmul/int8_body.h"

namespace pare::cpu::avx2 {

struct Int8Vector {
  static constexpr int kWidth = 8, kWords = 2;
  using Acc = __m256i;
  struct Quad {
    __m256i even, odd;
  };
  static Acc zero() { return _mm256_setzero_si256(); }
  static Quad load(const uint8_t* p) {
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm256_and_si256(codes, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(codes, 8)};
  }
  static void store(int32_t* p, Acc acc) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), acc); }
  static Acc dot(Acc acc, const Quad& w, const int32_t* x) {
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(w.even, _mm256_set1_epi32(x[0])));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(w.odd, _mm256_set1_epi32(x[1])));
  }
};

constinit const Int8Kernels kInt8Kernels = body::make_int8_kernels<Int8Vector, 4>("avx2 vpmaddwd");

}  // namespace pare::cpu::avx2
