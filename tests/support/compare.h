// tests/support/compare.h: how far two tensors are apart, relative to the largest value.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/tensor/tensor.h"

namespace pare::test {

// max |a - b| / max |b| over float tensors of equal size; infinite when either holds a NaN.
inline double relative_error(const Tensor& a, const Tensor& b) {
  PARE_ASSERT(a.numel() == b.numel(), "{} against {}", a.shape().text(), b.shape().text());
  const float* x = a.data<float>();
  const float* y = b.data<float>();
  double error = 0.0, largest = 0.0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    if (std::isnan(x[i]) || std::isnan(y[i])) return std::numeric_limits<double>::infinity();
    error = std::max(error, std::fabs(double(x[i]) - double(y[i])));
    largest = std::max(largest, std::fabs(double(y[i])));
  }
  return error / std::max(largest, 1e-30);
}

}  // namespace pare::test
