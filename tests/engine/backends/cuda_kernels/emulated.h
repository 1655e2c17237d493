// tests/engine/backends/cuda_kernels/emulated.h: a CUDA backend on the emulator, and tensors on it.
#pragma once

#include <gtest/gtest.h>

#include "cuda_emulator/simt.h"
#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/device_parts.h"
#include "engine/core/random.h"
#include "engine/tensor/float_formats.h"

namespace pare::test {

inline cuda::CudaBackend& emulated() {
  static const std::unique_ptr<Backend> backend = [] {
    auto made = make_cuda_backend(0, {.math = cuda::MathMode::bf16});
    PARE_ASSERT(made.has_value(), "[emulated] {}", made ? "" : format_error(made.error()));
    return *std::move(made);
  }();
  return static_cast<cuda::CudaBackend&>(*backend);
}

inline Tensor on_device(const Tensor& tensor) {
  return *cuda::to_device(emulated(), tensor);
}
inline Tensor on_host(const Tensor& tensor) {
  return *cuda::to_host(emulated(), tensor);
}
inline Tensor device_bytes(int64_t bytes) {
  return on_device(*Tensor::allocate(DType::u8, {bytes}));
}

// Runs `work` in several orders of threads and blocks.
template <typename Work>
void in_all_orders(Work work) {
  for (const auto& [order, seed] : {std::pair{emulator::Order::forward, 0},
                                    {emulator::Order::reverse, 0},
                                    {emulator::Order::shuffled, 1},
                                    {emulator::Order::shuffled, 2}}) {
    emulator::set_order(order, uint64_t(seed));
    SCOPED_TRACE(testing::Message() << "order " << int(order) << ", seed " << seed);
    work();
  }
  emulator::set_order(emulator::Order::forward);
}

inline bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.defined() == b.defined() && (!a.defined() || (a.shape() == b.shape() && a.dtype() == b.dtype() &&
                                                         std::memcmp(a.raw(), b.raw(), a.size_bytes()) == 0));
}

}  // namespace pare::test
