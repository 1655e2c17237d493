// engine/backends/cpu/matmul/isa_int8_avx512_vnni.cpp: the integer kernels for AVX-512 VNNI: unsigned codes
// times signed activations.
#include <immintrin.h>

#include "engine/backends/cpu/matmul/int8_body.h"

namespace pare::cpu::avx512_vnni {

struct Int8Vector {
  static constexpr int kWidth = 16, kWords = 1;
  using Acc = __m512i;
  using Quad = __m512i;
  static Acc zero() { return _mm512_setzero_si512(); }
  static Quad load(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static void store(int32_t* p, Acc acc) { _mm512_storeu_si512(p, acc); }
  static Acc dot(Acc acc, Quad w, const int32_t* x) {
    return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(*x));
  }
};

constinit const Int8Kernels kInt8Kernels = body::make_int8_kernels<Int8Vector, 14>("avx512 vpdpbusd");

}  // namespace pare::cpu::avx512_vnni
