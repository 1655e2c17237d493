#include "bench/gpu_support.h"

#include <algorithm>
#include <cmath>

#include "engine/backends/cuda/cuda_backend.h"
#include "engine/core/parallel.h"
#include "engine/core/random.h"
#include "engine/tensor/transfer.h"

namespace pare::bench {

Backend& gpu() {
  if (!has_backend(gpu_device())) install_backend(require(make_cuda_backend(0, {})));
  return backend_for(gpu_device());
}

namespace {
bool tiny = false;
}  // namespace

void set_tiny() {
  tiny = true;
}
bool is_tiny() {
  return tiny;
}

Limit gpu_limit(cuda::GpuProbe probe) {
  if (tiny) return {.name = "none", .work = 1.0, .run = [] { require(gpu().finish()); }};
  static cuda::GpuProbes* const probes = new cuda::GpuProbes(gpu());  // its memory outlives every case
  return {.name = std::string(cuda::gpu_probe_name(probe)),
          .work = cuda::GpuProbes::work(probe),
          .run = [probe] { require(probes->run(probe)); },
          .counts_operations = probe == cuda::GpuProbe::gemm_bf16};
}

std::function<void()> on_gpu(int repeats, std::function<void(int)> call) {
  auto turn = std::make_shared<int>(0);
  return [repeats, call = std::move(call), turn] {
    for (int i = 0; i < repeats; ++i) call((*turn)++);
    require(gpu().finish());
  };
}

int repeats_for(double bytes, double operations) {
  if (tiny) return 1;
  const double seconds = std::max(bytes / 3e12, operations / 6e14) + 2e-6;
  return int(std::clamp(std::ceil(2e-3 / seconds), 1.0, 500.0));
}

int64_t gpu_copies(double bytes) {
  if (tiny) return 1;
  return std::max<int64_t>(1, int64_t(std::ceil(180e6 / bytes)));
}

Tensor host_normal(int64_t rows, int64_t columns, uint32_t stream) {
  const Random random(11, RandomPurpose::test_data, stream);
  Tensor tensor = require(Tensor::allocate(DType::f32, {rows, columns}));
  float* to = tensor.mutable_data<float>();
  parallel_ranges(tensor.numel(), 16384, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = random.normal(uint64_t(i));
  });
  return tensor;
}

Tensor gpu_normal(int64_t rows, int64_t columns, uint32_t stream, DType dtype) {
  Tensor tensor = host_normal(rows, columns, stream);
  if (dtype != DType::f32) tensor = require(converted(tensor, dtype));
  return require(moved(tensor, gpu_device()));
}

}  // namespace pare::bench
