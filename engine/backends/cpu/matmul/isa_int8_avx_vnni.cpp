// engine/backends/cpu/matmul/isa_int8_avx_vnni.cpp: the integer kernels for AVX-VNNI: unsigned codes times
// signed activations.
#include <immintrin.h>

#include "engine/backends/cpu/matmul/int8_body.h"

namespace pare::cpu::avx_vnni {

struct Int8Vector {
  static constexpr int kWidth = 8, kWords = 1;
  using Acc = __m256i;
  using Quad = __m256i;
  static Acc zero() { return _mm256_setzero_si256(); }
  static Quad load(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static void store(int32_t* p, Acc acc) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), acc); }
  static Acc dot(Acc acc, Quad w, const int32_t* x) {
    return _mm256_dpbusd_avx_epi32(acc, w, _mm256_set1_epi32(*x));
  }
};

constinit const Int8Kernels kInt8Kernels = body::make_int8_kernels<Int8Vector, 6>("avx2 vpdpbusd");

}  // namespace pare::cpu::avx_vnni
