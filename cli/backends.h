// cli/backends.h: the only place that knows which backends exist.
#pragma once

#include <cstdint>
#include <string>

#include "engine/core/json.h"
#include "engine/core/result.h"

namespace pare::cli {

// Installs reference, cpu (at `cpu_profile`, or the best level; PARE_CPU_PROFILE lowers it too) and check.
// Exit 2 for a malformed level.
Status install_backends(const std::string& cpu_profile);

// High-water marks of this process: "83.1 MB", or "83.1 MB and 1.20 GB on the GPU" where one is in use.
std::string peak_memory_text();
uint64_t peak_device_bytes();  // 0 without a GPU
// Adds peak_resident_bytes and, where a GPU is in use, peak_device_bytes.
void add_peak_memory(Json& json);

// The kernels that results depend on: "cpu avx512; OpenBLAS 0.3.21 SkylakeX".
std::string arithmetic_profile();

}  // namespace pare::cli
