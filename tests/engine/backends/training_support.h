// tests/engine/backends/training_support.h: gradients on a backend of this host, beside the reference, and
// numeric derivatives of functions in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "engine/core/parallel.h"
#include "engine/tensor/tolerance.h"
#include "engine/tensor/training_ops.h"
#include "tests/engine/backends/test_backends.h"

namespace pare::test {

using tolerance::kUnitRoundoff;

// Installs the tested backend and the reference for their devices; tensors are seen by either with
// Tensor::on().
class TrainingTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    for (const TestBackend& backend : test_backends()) {
      if (backend.name == GetParam() || backend.name == "reference") install_backend(backend.make());
    }
  }
  void TearDown() override { set_thread_count(0); }
  Device device() { return tested_backend(GetParam()).device(); }
  static Device reference() { return Device::reference(); }
};

inline Tensor on(const Tensor& tensor, Device device) {
  return tensor.defined() ? tensor.on(device) : Tensor();
}

inline float& element(const Tensor& matrix, int64_t row, int64_t column) {
  return matrix.mutable_data<float>()[row * matrix.row_stride() + column];
}

using Row = std::vector<double>;
inline Row row_of(const Tensor& matrix, int64_t row) {
  Row values;
  for (int64_t c = 0; c < matrix.size(-1); ++c) values.push_back(value_at(matrix, row, c));
  return values;
}
inline Row row_of(const Tensor& vector) {
  return row_of(vector.reshaped({1, vector.numel()}), 0);
}

inline double dot(const Row& a, const Row& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// d function / d at[i], by central differences; the error is about 1e-9 of the function's size.
inline double derivative(const std::function<double(const Row&)>& function, Row at, size_t i) {
  const double h = 1e-6 * std::max(1.0, std::abs(at[i])), middle = at[i];
  at[i] = middle + h;
  const double above = function(at);
  at[i] = middle - h;
  return (above - function(at)) / (2.0 * h);
}

// Every element within bound(row, column) of the wanted one.
inline testing::AssertionResult close(const Tensor& got, const Tensor& want,
                                      const std::function<double(int64_t, int64_t)>& bound) {
  for (int64_t r = 0; r < want.size(0); ++r) {
    for (int64_t c = 0; c < want.size(1); ++c) {
      const double a = value_at(got, r, c), b = value_at(want, r, c);
      if (a == b || std::abs(a - b) <= bound(r, c) + tolerance::kUnderflow) continue;
      return testing::AssertionFailure() << want.shape().text() << " at [" << r << ", " << c << "]: " << a
                                         << " for " << b << ", bound " << bound(r, c);
    }
  }
  return testing::AssertionSuccess();
}
inline Tensor as_matrix(const Tensor& vector) {
  return vector.reshaped({1, vector.numel()});
}

}  // namespace pare::test
