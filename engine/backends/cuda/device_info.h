// engine/backends/cuda/device_info.h: which GPUs this process could use. Includes nothing of CUDA.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/core/result.h"

namespace pare {

struct GpuInfo {
  std::string name;
  int compute_capability = 0;  // 80, 89, 90, ...
  uint64_t total_bytes = 0;
  uint64_t free_bytes = 0;
  std::string driver;   // highest CUDA version of the driver, "13.0"
  std::string runtime;  // CUDA version that pare was built with, "13.0"
};

// GPUs in the order of their indices. A machine without a GPU or a driver, and a build without CUDA, give an
// empty list; why_no_gpu() says which. Error: exit 6 when a GPU is there but does not answer.
Result<std::vector<GpuInfo>> list_gpus();

// Why list_gpus() is empty: "built without CUDA", "no CUDA driver", "no CUDA-capable device"; empty when it
// is not.
std::string why_no_gpu();

bool built_with_cuda();

}  // namespace pare
