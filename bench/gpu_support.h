// bench/gpu_support.h: what the cases on a GPU share.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "bench/harness.h"
#include "bench/model_case.h"
#include "engine/backends/cuda/measure.h"
#include "engine/tensor/backend.h"

namespace pare::bench {

// The GPU of the run, opened once; ends the program when there is none.
Backend& gpu();
inline Device gpu_device() {
  return Device::cuda(0);
}

// Shapes for trying the cases on the emulator: nothing that is timed then means anything.
void set_tiny();
bool is_tiny();

// A probe as the limit of a case.
Limit gpu_limit(cuda::GpuProbe probe);
// A sample: `call` for `repeats` calls one behind the other, then a wait. Work of the case counts all of
// them.
std::function<void()> on_gpu(int repeats, std::function<void(int)> call);
// Calls that last about a millisecond together, at the rate of a data sheet.
int repeats_for(double bytes, double operations);
// How many copies of `bytes` do not fit a cache of 60 MB three times over.
int64_t gpu_copies(double bytes);

// f32 [rows, columns], about normal, on the GPU or (host) on the CPU.
Tensor gpu_normal(int64_t rows, int64_t columns, uint32_t stream, DType dtype = DType::f32);
Tensor host_normal(int64_t rows, int64_t columns, uint32_t stream);

// Shapes [out, in] of the four products of a layer.
struct LinearShape {
  const char* name;
  int64_t out, in;
};
inline constexpr LinearShape k8B[] = {
    {"qkv", 6144, 4096}, {"o", 4096, 4096}, {"gate_up", 28672, 4096}, {"down", 4096, 14336}};
inline constexpr LinearShape k1B[] = {
    {"qkv1b", 3072, 2048}, {"o1b", 2048, 2048}, {"gate_up1b", 16384, 2048}, {"down1b", 2048, 8192}};

}  // namespace pare::bench
