// tests/engine/backends/test_backends.h: the backends that every op test runs on, and data for them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "engine/core/random.h"
#include "engine/tensor/ops.h"

namespace pare::test {

struct TestBackend {
  std::string name;  // "reference", "cpu_avx2"
  std::function<std::unique_ptr<Backend>()> make;
};
// The reference, one CPU backend per level that this host has, and the CUDA backend in both modes of its products: on the
// emulator, or on GPU 0 in a build for it.
std::vector<TestBackend> test_backends();

Backend& oracle();                                 // the reference backend
Backend& tested_backend(const std::string& name);  // one of test_backends()

// Tests on Device::check(): every op runs on the backend under test and on the reference, and a difference
// beyond the bound fails the test with a text that names operation, shape, worst coordinate and both values.
class BackendTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override;
  Backend& tested() { return tested_backend(GetParam()); }
};

std::vector<std::string> test_backend_names();
#define PARE_INSTANTIATE_BACKENDS(Suite)                                                           \
  INSTANTIATE_TEST_SUITE_P(Backends, Suite, testing::ValuesIn(::pare::test::test_backend_names()), \
                           [](const testing::TestParamInfo<std::string>& info) { return info.param; })

// Sizes around the tiles of kernels: 1, primes, tile - 1, tile, tile + 1.
inline const std::vector<int64_t> kSizes{1, 2, 7, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129};

// Contiguous f32 (or rounded to `dtype`) tensor on Device::check(), uniform in [low, high).
Tensor uniform(const Shape& shape, uint64_t seed, float low = -1.0f, float high = 1.0f,
               DType dtype = DType::f32);
// Integers in [low, high]: products and sums are exact in any order.
Tensor integers(const Shape& shape, uint64_t seed, int low = -4, int high = 4, DType dtype = DType::f32);
Tensor indices(const std::vector<int32_t>& values);  // i32 vector
Tensor zeros(DType dtype, const Shape& shape);
Tensor copy_of(const Tensor& tensor);  // contiguous

// A matrix inside a wider one; the columns around it hold a value that must survive the op.
class Padded {
 public:
  Padded(int64_t rows, int64_t columns, int64_t padding = 5);
  explicit Padded(const Tensor& content, int64_t padding = 5);
  Tensor& view() { return view_; }
  bool padding_is_intact() const;

 private:
  Tensor whole_, view_;
};

// Element (row, column) of an f32, bf16 or f16 matrix.
double value_at(const Tensor& matrix, int64_t row, int64_t column);

// Codes of `scheme` drawn at random, with every part that the scheme has. `unit_scales`: all scales 1 and,
// where there are minimums, integers, so that sums stay exact.
QuantizedTensor random_codes(const QuantScheme& scheme, int64_t out, int64_t in, uint64_t seed,
                             bool unit_scales);

// Same bits everywhere, or a message that names the first difference.
testing::AssertionResult same_bits(const Tensor& a, const Tensor& b);

}  // namespace pare::test
