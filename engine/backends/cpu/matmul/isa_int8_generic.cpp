// engine/backends/cpu/matmul/isa_int8_generic.cpp: the integer kernels for any x86-64, whose SSE2 has the
// same 16-bit product.
#include <immintrin.h>

#include "engine/backends/cpu/matmul/int8_body.h"

namespace pare::cpu::generic {

struct Int8Vector {
  static constexpr int kWidth = 8, kWords = 2;
  struct Acc {
    __m128i low, high;
  };
  struct Quad {
    __m128i even[2], odd[2];
  };
  static Acc zero() { return {_mm_setzero_si128(), _mm_setzero_si128()}; }
  static Quad load(const uint8_t* p) {
    const __m128i mask = _mm_set1_epi16(0xff);
    const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16));
    return {{_mm_and_si128(low, mask), _mm_and_si128(high, mask)},
            {_mm_srli_epi16(low, 8), _mm_srli_epi16(high, 8)}};
  }
  static void store(int32_t* p, const Acc& acc) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), acc.low);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 4), acc.high);
  }
  static Acc dot(Acc acc, const Quad& w, const int32_t* x) {
    const __m128i even = _mm_set1_epi32(x[0]), odd = _mm_set1_epi32(x[1]);
    acc.low =
        _mm_add_epi32(acc.low, _mm_add_epi32(_mm_madd_epi16(w.even[0], even), _mm_madd_epi16(w.odd[0], odd)));
    acc.high = _mm_add_epi32(acc.high,
                             _mm_add_epi32(_mm_madd_epi16(w.even[1], even), _mm_madd_epi16(w.odd[1], odd)));
    return acc;
  }
};

constinit const Int8Kernels kInt8Kernels = body::make_int8_kernels<Int8Vector, 3>("sse2 pmaddwd");

}  // namespace pare::cpu::generic
