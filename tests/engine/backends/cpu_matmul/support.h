// tests/engine/backends/cpu_matmul/support.h: inputs, the plain double product, and comparison with a derived
// bound.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "engine/backends/cpu/isa.h"
#include "engine/backends/cpu/matmul/matmul.h"
#include "engine/core/random.h"
#include "engine/tensor/float_formats.h"
#include "engine/tensor/quantized_tensor.h"

namespace pare::cpu::test {

inline std::vector<Isa> levels_of_this_host() {
  std::vector<Isa> levels;
  for (const Isa isa : {Isa::generic, Isa::avx2, Isa::avx512}) {
    if (isa <= host_isa()) levels.push_back(isa);
  }
  return levels;
}

// A small generator of its own, so that these tests depend on nothing they do not test.
class Numbers {
 public:
  explicit Numbers(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  uint64_t bits() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_ * 0x2545f4914f6cdd1du;
  }
  int64_t integer(int64_t low, int64_t high) {
    return low + int64_t((bits() >> 33) % uint64_t(high - low + 1));
  }
  float real() { return float(double(bits() >> 11) * 0x1p-52 - 1.0); }  // [-1, 1)

 private:
  uint64_t state_;
};

inline std::vector<float> reals(int64_t count, uint64_t seed) {
  Numbers numbers(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = numbers.real();
  return values;
}

inline std::vector<float> integers(int64_t count, uint64_t seed) {
  Numbers numbers(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = float(numbers.integer(-4, 4));
  return values;
}

// 64-byte aligned scratch of `bytes`, filled with what must not be read, and a guard behind it.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : bytes_(bytes), block_(bytes + 64 + kGuard, std::byte{0xff}) {
    begin_ = (64 - reinterpret_cast<uintptr_t>(block_.data()) % 64) % 64;
  }
  void* data() { return block_.data() + begin_; }
  bool guard_is_whole() const {
    for (size_t i = 0; i < kGuard; ++i) {
      if (block_[begin_ + bytes_ + i] != std::byte{0xff}) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kGuard = 256;
  size_t bytes_, begin_;
  std::vector<std::byte> block_;
};

struct Shape3 {
  int64_t m, n, k;
};

// A product with gaps between rows, a starting value of out, and the answer in double.
struct Product {
  Shape3 shape;
  int64_t x_stride, out_stride;
  bool accumulate;
  std::vector<float> x, bias, before;
  std::vector<double> exact, bound;  // [m, n]

  // weight: float [n, k]; sizes [n, k]: magnitude of what is summed for each weight, when that is more than
  // |weight|
  Product(Shape3 s, const std::vector<float>& weight, std::vector<float> (*make)(int64_t, uint64_t),
          bool with_bias, bool accumulates, int64_t gap, const std::vector<float>& sizes = {})
      : shape(s), x_stride(s.k + gap), out_stride(s.n + gap), accumulate(accumulates) {
    x = make(s.m * x_stride, 11);
    if (with_bias) bias = make(s.n, 12);
    before = make(s.m * out_stride, 13);
    for (int64_t m = 0; m < s.m; ++m) {
      for (int64_t n = 0; n < s.n; ++n) {
        double sum = 0.0, magnitude = 0.0;
        for (int64_t k = 0; k < s.k; ++k) {
          const size_t at = size_t(n * s.k + k);
          const double activation = double(x[size_t(m * x_stride + k)]);
          sum += activation * double(weight[at]);
          magnitude += std::fabs(activation * double(sizes.empty() ? weight[at] : sizes[at]));
        }
        if (with_bias) sum += double(bias[size_t(n)]), magnitude += std::fabs(double(bias[size_t(n)]));
        const double start = double(before[size_t(m * out_stride + n)]);
        if (accumulate) sum += start, magnitude += std::fabs(start);
        exact.push_back(sum);
        bound.push_back(magnitude);
      }
    }
  }

  // Worst |error| in units of `epsilons` x 2^-24 x sum of |terms|; the text names the place. Untouched gaps
  // included.
  void expect_close(const std::vector<float>& out, double epsilons, const std::string& what) const {
    for (int64_t m = 0; m < shape.m; ++m) {
      for (int64_t n = 0; n < out_stride; ++n) {
        const float got = out[size_t(m * out_stride + n)];
        if (n >= shape.n) {
          ASSERT_EQ(got, before[size_t(m * out_stride + n)]) << what << ": wrote behind row " << m;
          continue;
        }
        const size_t at = size_t(m * shape.n + n);
        ASSERT_LE(std::fabs(double(got) - exact[at]), epsilons * 0x1p-24 * bound[at] + 1e-37)
            << what << " m=" << shape.m << " n=" << shape.n << " k=" << shape.k << " at [" << m << ", " << n
            << "]: got " << got << ", expected " << exact[at];
      }
    }
  }
};

// Rounding of a sum of k terms in float, in any order that is not worse than eight plain chains.
inline double sum_epsilons(int64_t k) {
  return 4.0 + double(k) / 4.0;
}

}  // namespace pare::cpu::test
