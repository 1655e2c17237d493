// engine/backends/cpu/matmul/isa_int8_avx512.cpp: the integer kernels for AVX-512 BW without VNNI.
//
// vpmaddubsw would saturate (2 * 255 * 127 is beyond 16 bits), so codes and activations are widened to 16
// bits.
#include <immintrin.h>

#include "engine/backends/cpu/matmul/int8_body.h"

namespace pare::cpu::avx512 {

struct Int8Vector {
  static constexpr int kWidth = 16, kWords = 2;
  using Acc = __m512i;
  struct Quad {
    __m512i even, odd;
  };
  static Acc zero() { return _mm512_setzero_si512(); }
  static Quad load(const uint8_t* p) {
    const __m512i codes = _mm512_loadu_si512(p);
    return {_mm512_and_si512(codes, _mm512_set1_epi16(0xff)), _mm512_srli_epi16(codes, 8)};
  }
  static void store(int32_t* p, Acc acc) { _mm512_storeu_si512(p, acc); }
  static Acc dot(Acc acc, const Quad& w, const int32_t* x) {
    acc = _mm512_add_epi32(acc, _mm512_madd_epi16(w.even, _mm512_set1_epi32(x[0])));
    return _mm512_add_epi32(acc, _mm512_madd_epi16(w.odd, _mm512_set1_epi32(x[1])));
  }
};

constinit const Int8Kernels kInt8Kernels = body::make_int8_kernels<Int8Vector, 12>("avx512 vpmaddwd");

}  // namespace pare::cpu::avx512
