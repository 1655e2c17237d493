// engine/backends/cpu/matmul/isa_generic.cpp: the matrix kernels in plain C++, for every processor.
#include <bit>
#include <cstdint>
#include <cstring>
#include <utility>

#include "engine/backends/cpu/matmul/level_table.h"
#include "engine/tensor/float_formats.h"

namespace pare::cpu::generic {

// Eight lanes; the compiler makes of the loops what the processor has.
struct Vector {
  static constexpr int kWidth = 8;
  struct F {
    float lane[size_t(kWidth)];
  };
  struct Words {
    uint32_t lane[size_t(kWidth)];
  };

  template <class Function>
  static F each(const Function& f) {
    F result;
    for (int i = 0; i < kWidth; ++i) result.lane[i] = f(i);
    return result;
  }
  static F zero() { return set1(0.0f); }
  static F set1(float value) {
    return each([&](int) { return value; });
  }
  static F load(const float* p) {
    return each([&](int i) { return p[i]; });
  }
  static void store(float* p, const F& value) { std::memcpy(p, value.lane, sizeof value.lane); }
  static F add(const F& a, const F& b) {
    return each([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static F sub(const F& a, const F& b) {
    return each([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static F mul(const F& a, const F& b) {
    return each([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static F fma(const F& a, const F& b, const F& c) {
    return each([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
  }
  static F load_bf16(const uint16_t* p) {
    return each([&](int i) { return bf16_to_float(p[i]); });
  }
  static F load_f16(const uint16_t* p) {
    return each([&](int i) { return f16_to_float(p[i]); });
  }
  static float sum(const F& v) {
    const float* a = v.lane;
    return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
  }

  static Words load_words(const uint8_t* p) {
    Words words;
    std::memcpy(words.lane, p, sizeof words.lane);
    return words;
  }
  static Words shift_words(const Words& words, int bits) {
    Words shifted;
    for (int i = 0; i < kWidth; ++i) shifted.lane[i] = words.lane[i] >> bits;
    return shifted;
  }
  template <int kBits>
  struct IntCodes {
    explicit IntCodes(const float*) {}
    template <int kIndex>
    F get(const Words& words) const {
      constexpr int kUp = 32 - kBits * (kIndex + 1);
      return each([&](int i) { return float(int32_t(words.lane[i] << kUp) >> (32 - kBits)); });
    }
  };
  struct TableCodes {
    const float* table;
    explicit TableCodes(const float* values) : table(values) {}
    template <int kIndex>
    F get(const Words& words) const {
      return each([&](int i) { return table[(words.lane[i] >> (4 * kIndex)) & 15u]; });
    }
  };

  static F signed_bytes(const uint8_t* p) {
    return each([&](int i) { return float(int8_t(p[i])); });
  }
  static F unsigned_bytes(const uint8_t* p) {
    return each([&](int i) { return float(p[i]); });
  }
  static F e4m3_bytes(const uint8_t* p) {
    return each([&](int i) { return f8_e4m3_to_float(p[i]); });
  }

  static void transpose(F (&r)[size_t(kWidth)]) {
    for (int i = 0; i < kWidth; ++i) {
      for (int j = 0; j < i; ++j) std::swap(r[i].lane[j], r[j].lane[i]);
    }
  }
};

constinit const LevelKernels kKernels = body::make_level<Vector, 4>(256, 8, 4);

}  // namespace pare::cpu::generic
