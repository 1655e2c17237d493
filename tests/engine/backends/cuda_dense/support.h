// tests/engine/backends/cuda_dense/support.h: a context on the emulator, and host memory that it may use.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "engine/backends/cuda/backend_class.h"
#include "engine/core/random.h"
#include "engine/tensor/float_formats.h"

namespace pare::test {

inline std::unique_ptr<cuda::CudaBackend> open_backend(cuda::MathMode math, uint64_t max_bytes = 0) {
  auto context = cuda::Context::open(0, {.math = math, .max_bytes = max_bytes});
  EXPECT_TRUE(context.has_value());
  return std::make_unique<cuda::CudaBackend>(*std::move(context));
}

// Integers in [-4, 4]: exact in every type, and so are their sums.
inline std::vector<float> integers(int64_t count, uint64_t seed) {
  const Random random(seed, RandomPurpose::test_data);
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = float(int(random.below(9, i)) - 4);
  return values;
}
inline std::vector<uint16_t> as_bf16(const std::vector<float>& values) {
  std::vector<uint16_t> bits;
  for (const float value : values) bits.push_back(float_to_bf16(value));
  return bits;
}

}  // namespace pare::test
