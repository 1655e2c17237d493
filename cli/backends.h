// cli/backends.h: the only place that knows which backends exist.
#pragma once

#include <string>

#include "engine/core/result.h"

namespace pare::cli {

// Installs reference, cpu (at `cpu_profile`, or the best level; PARE_CPU_PROFILE lowers it too) and check.
// Exit 2 for a malformed level.
Status install_backends(const std::string& cpu_profile);

// The kernels that results depend on: "cpu avx512; OpenBLAS 0.3.21 SkylakeX".
std::string arithmetic_profile();

}  // namespace pare::cli
