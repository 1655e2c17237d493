// engine/backends/cuda/measure.h: what a GPU can do at all, and the vendor's products, for bench/. Includes
// nothing of CUDA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "engine/tensor/backend.h"

namespace pare::cuda {

enum class GpuProbe : uint8_t {
  copy,       // bytes/s, read plus written: 1 GiB from device memory to device memory
  read,       // bytes/s: sums of 1 GiB
  gemm_bf16,  // operations/s: cuBLASLt, 8192 cubed, random values
  boundary,   // launches/s: one graph of 1000 empty kernels, each waiting for the one before
  upload,     // bytes/s: 256 MiB from pinned memory
  download,   // bytes/s: the same back
};
constexpr std::string_view gpu_probe_name(GpuProbe probe) {
  constexpr std::string_view kNames[] = {"gpu.copy",     "gpu.read", "gpu.gemm_bf16",
                                         "gpu.boundary", "pcie.h2d", "pcie.d2h"};
  return kNames[size_t(probe)];
}

// Buffers are allocated at the first run of a probe and stay until the object goes.
class GpuProbes {
 public:
  explicit GpuProbes(Backend& gpu);  // of make_cuda_backend()
  ~GpuProbes();
  static double work(GpuProbe probe);  // of one run, in bytes, operations or launches
  // One run, until it is done. Exit 6.
  Status run(GpuProbe probe);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// out[m, n] = x[m, k] weight[n, k]^T by cuBLASLt: factors bf16, result f32, all contiguous in device memory.
void cublas_bf16(Backend& gpu, const void* x, const void* weight, float* out, int64_t m, int64_t n,
                 int64_t k);

}  // namespace pare::cuda
