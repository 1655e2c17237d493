// tests/calibrate/device/device.h: a GPU (the emulated one where there is none) beside the CPU.
#pragma once

#include <gtest/gtest.h>

#include "calibrate/device_sweep.h"
#include "calibrate/hessian.h"
#include "engine/backends/cpu/cpu_backend.h"
#include "engine/backends/cuda/cuda_backend.h"
#include "engine/tensor/backend.h"
#include "engine/tensor/transfer.h"

namespace pare::test {

inline const Device kGpu = Device::cuda(0);

// Float products, so that only the order of sums differs from the CPU's.
inline void install_gpu(const CudaOptions& options = {.math = cuda::MathMode::f32}) {
  install_backend(make_cpu_backend());
  auto gpu = make_cuda_backend(0, options);
  ASSERT_TRUE(gpu.has_value()) << format_error(gpu.error());
  install_backend(*std::move(gpu));
}

class DeviceTest : public testing::Test {
 protected:
  void SetUp() override { install_gpu(); }
};

inline Tensor there(const Tensor& tensor) {
  return moved(tensor, kGpu).value();
}
inline Tensor here(const Tensor& tensor) {
  return moved(tensor, Device::cpu()).value();
}

// The host's factor as if it had been made on the device.
inline HessianFactor there(const HessianFactor& factor) {
  HessianFactor copy = factor;
  if (factor.upper.defined()) copy.upper = there(factor.upper);
  return copy;
}

}  // namespace pare::test
