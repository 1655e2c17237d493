// engine/backends/cpu/sparse/isa_generic.cpp: the sparse kernels in plain C++, for every processor.
#include <cstring>

#include "engine/backends/cpu/sparse/sparse_table.h"
#include "engine/tensor/float_formats.h"

namespace pare::cpu::sparse_generic {
namespace {

// Eight lanes; the compiler makes of the loops what the processor has.
struct Vector {
  static constexpr int kWidth = 8;
  static constexpr bool kUnrolls = false;
  struct F {
    float lane[size_t(kWidth)];
  };
  struct Words {
    uint32_t lane[size_t(kWidth)];
  };
  using Four = const float*;

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
  static F load_f16(const uint16_t* p) {
    return each([&](int i) { return f16_to_float(p[i]); });
  }

  static F load_bytes(const uint8_t* p) {
    F result;
    std::memcpy(result.lane, p, sizeof result.lane);
    return result;
  }
  static F load_f16_bytes(const uint8_t* p) {
    uint16_t halves[size_t(kWidth)];
    std::memcpy(halves, p, sizeof halves);
    return load_f16(halves);
  }
  static F low_bf16(const Words& words) {
    return each([&](int i) { return bf16_to_float(uint16_t(words.lane[i])); });
  }
  static F high_bf16(const Words& words) {
    return each([&](int i) { return bf16_to_float(uint16_t(words.lane[i] >> 16)); });
  }
  static F signed_bytes(const uint8_t* p) {
    return each([&](int i) { return float(int8_t(p[i])); });
  }
  static F signed_nibble(const Words& words, int index) {
    return each([&](int i) { return float(int32_t(words.lane[i] << (28 - 4 * index)) >> 28); });
  }

  static Words load_words(const uint8_t* p) {
    Words words;
    std::memcpy(words.lane, p, sizeof words.lane);
    return words;
  }
  static Words shift(const Words& words, int bits) {
    Words shifted;
    for (int i = 0; i < kWidth; ++i) shifted.lane[i] = words.lane[i] >> bits;
    return shifted;
  }
  static Words low_two(const Words& words) {
    Words low;
    for (int i = 0; i < kWidth; ++i) low.lane[i] = words.lane[i] & 3u;
    return low;
  }
  static F where_equal(const Words& words, int value, const F& yes, const F& no) {
    return each([&](int i) { return words.lane[i] == uint32_t(value) ? yes.lane[i] : no.lane[i]; });
  }
  static Four load_four(const float* p) { return p; }
  static F pick(Four four, const Words& words) {
    return each([&](int i) { return four[words.lane[i] & 3u]; });
  }
};
using F = Vector::F;

// Read::get(p, index): value `index` at p; Read::bytes(count) of them.
template <class Read, int kVectorCount, class MaskWord>
struct Rows {
  static constexpr bool kHasCodes = kVectorCount == 4;
  static constexpr int kVectors = kVectorCount, kInterleave = 1;
  static constexpr int kLinesPerInput = 1;
  using Mask = MaskWord;
  using Fill = const int8_t*;
  static Fill fill(const int8_t* zeros) { return zeros; }
  static void take(Mask mask, const uint8_t*& from, Fill zeros, F (&value)[size_t(kVectorCount)]) {
    int64_t taken = 0;
    for (int row = 0; row < kVectors * Vector::kWidth; ++row) {
      float& lane = value[row / Vector::kWidth].lane[row % Vector::kWidth];
      if ((mask >> row & 1u) != 0) {
        lane = Read::get(from, taken++);
      } else {
        lane = zeros == nullptr ? 0.0f : float(zeros[row]);
      }
    }
    from += Read::bytes(taken);
  }
};

struct ReadF32 {
  static int64_t bytes(int64_t count) { return 4 * count; }
  static float get(const uint8_t* p, int64_t index) {
    float value = 0.0f;
    std::memcpy(&value, p + 4 * index, sizeof value);
    return value;
  }
};
uint16_t half_at(const uint8_t* p, int64_t index) {
  uint16_t half = 0;
  std::memcpy(&half, p + 2 * index, sizeof half);
  return half;
}
struct ReadBf16 {
  static int64_t bytes(int64_t count) { return 2 * count; }
  static float get(const uint8_t* p, int64_t index) { return bf16_to_float(half_at(p, index)); }
};
struct ReadF16 {
  static int64_t bytes(int64_t count) { return 2 * count; }
  static float get(const uint8_t* p, int64_t index) { return f16_to_float(half_at(p, index)); }
};
struct ReadByte {
  static int64_t bytes(int64_t count) { return count; }
  static float get(const uint8_t* p, int64_t index) { return float(int8_t(p[index])); }
};
struct ReadNibble {
  static int64_t bytes(int64_t count) { return (count + 1) / 2; }
  static float get(const uint8_t* p, int64_t index) {
    const int code = p[index / 2] >> (index % 2 * 4) & 15;
    return float((code ^ 8) - 8);
  }
};

struct Masked {
  using F32 = Rows<ReadF32, 2, uint16_t>;
  using Bf16 = Rows<ReadBf16, 2, uint16_t>;
  using F16 = Rows<ReadF16, 2, uint16_t>;
  using Byte = Rows<ReadByte, 4, uint32_t>;
  using Nibble = Rows<ReadNibble, 4, uint32_t>;
};

}  // namespace

constinit const SparseKernels kKernels = body::make_sparse_kernels<Vector, Masked>("generic");

}  // namespace pare::cpu::sparse_generic
