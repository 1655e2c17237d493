#include "engine/backends/cpu/multiply_add_peak.h"

#include <immintrin.h>

#include "engine/backends/cpu/isa.h"

namespace pare::cpu {
namespace {

constexpr int kChains = 12;  // more than latency times units of any of these processors

// What a compiler must believe to be used.
void keep(float value) {
  asm volatile("" : : "x"(value));
}

__attribute__((target("avx512f"))) void chains_avx512(int64_t steps) {
  __m512 chain[kChains];
  for (int j = 0; j < kChains; ++j) chain[j] = _mm512_set1_ps(float(j));
  const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(1e-3f);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) chain[j] = _mm512_fmadd_ps(chain[j], a, b);
  }
  for (int j = 1; j < kChains; ++j) chain[0] = _mm512_add_ps(chain[0], chain[j]);
  keep(_mm512_cvtss_f32(chain[0]));
}

__attribute__((target("avx2,fma"))) void chains_avx2(int64_t steps) {
  __m256 chain[kChains];
  for (int j = 0; j < kChains; ++j) chain[j] = _mm256_set1_ps(float(j));
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-3f);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) chain[j] = _mm256_fmadd_ps(chain[j], a, b);
  }
  for (int j = 1; j < kChains; ++j) chain[0] = _mm256_add_ps(chain[0], chain[j]);
  keep(_mm256_cvtss_f32(chain[0]));
}

void chains_generic(int64_t steps) {
  __m128 chain[kChains];
  for (int j = 0; j < kChains; ++j) chain[j] = _mm_set1_ps(float(j));
  const __m128 a = _mm_set1_ps(0.999f), b = _mm_set1_ps(1e-3f);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) chain[j] = _mm_add_ps(_mm_mul_ps(chain[j], a), b);
  }
  for (int j = 1; j < kChains; ++j) chain[0] = _mm_add_ps(chain[0], chain[j]);
  keep(_mm_cvtss_f32(chain[0]));
}

int lanes() {
  switch (best_isa()) {
    case Isa::avx512:
      return 16;
    case Isa::avx2:
      return 8;
    case Isa::generic:
      break;
  }
  return 4;
}

}  // namespace

void run_multiply_adds(int64_t steps) {
  switch (best_isa()) {
    case Isa::avx512:
      return chains_avx512(steps);
    case Isa::avx2:
      return chains_avx2(steps);
    case Isa::generic:
      break;
  }
  chains_generic(steps);
}

double multiply_add_operations(int64_t steps) {
  return 2.0 * double(steps) * kChains * lanes();
}

}  // namespace pare::cpu
