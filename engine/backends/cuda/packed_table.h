// engine/backends/cuda/packed_table.h: which kernel multiplies with low-bit weights. Host code.
//
// The choice follows from the problem alone. The last row that can run a problem always fits.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "engine/backends/cuda/math_mode.h"
#include "engine/core/result.h"

namespace pare::cuda {

struct PackedProblem {
  int64_t m, n, k;  // rows of activations, outputs, inputs
  int bits;
  MathMode math;
};

struct PackedKernel {
  enum class Kind : uint8_t { floats, vector, fragments, dense };
  std::string_view name;
  Kind kind;
  bool (*can_run)(const PackedProblem&);
  bool (*is_best)(const PackedProblem&);  // asked in order among those that can
};

std::span<const PackedKernel> packed_kernels();
// The forced one where it can run the problem, else the first that is best.
const PackedKernel& choose_packed_kernel(const PackedProblem& problem);
// Says with -vv which kernel was chosen, once for each kind of problem.
void log_choice(const PackedProblem& problem);
// "packed_vector for 4 bits, [1, 4096] x [4096, 14336]", for logs and benchmarks.
std::string describe_choice(const PackedProblem& problem);

// The kernel that PARE_CUDA_KERNEL names, if it is set. Exit 2 (CL14) for a name that is none.
Status force_requested_kernel();
// For tests and benchmarks: products take kernel `name` from now on, as far as it can run them. Empty: by the
// table again. Asserts that there is such a kernel.
void force_packed_kernel(std::string_view name);

}  // namespace pare::cuda
