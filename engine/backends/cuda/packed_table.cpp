#include "engine/backends/cuda/packed_table.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <set>

#include <fmt/core.h>

#include "engine/backends/cuda/packed_geometry.h"
#include "engine/core/assert.h"
#include "engine/core/log.h"
#include "engine/core/text.h"

namespace pare::cuda {
namespace {

using Kind = PackedKernel::Kind;

bool rounds(const PackedProblem& problem) {
  return problem.math == MathMode::bf16;
}
bool is_float(const PackedProblem& problem) {
  return !rounds(problem);
}
bool always(const PackedProblem&) {
  return true;
}

// Rows of one fragment of inputs, and of two: beyond, inputs no longer stay in shared memory.
constexpr int64_t kVectorRows = 16;
// From here on the weights are worth making dense: mma.sync reaches two thirds of what cuBLAS does on Hopper,
// and writing and reading 16 bits per weight costs what about 200 rows of that difference do (computed).
constexpr int64_t kFragmentRows = 192;
// Float products: codes are decoded once per four rows.
constexpr int64_t kFloatRows = 32;

constexpr std::array kKernels{
    // few rows: weights are the whole cost. Stream them once, inputs wait in shared memory
    PackedKernel{"packed_vector", Kind::vector,
                 [](const PackedProblem& p) { return rounds(p) && p.m <= kVectorRows; }, always},
    // more rows: inputs stream too, tiles of weights are shared by a block through shared memory
    PackedKernel{"packed_fragments", Kind::fragments,
                 [](const PackedProblem& p) { return rounds(p) && p.m <= kMostStripeRows; },
                 [](const PackedProblem& p) { return p.m <= kFragmentRows; }},
    // float operands: fixtures and comparisons
    PackedKernel{"packed_floats", Kind::floats, is_float,
                 [](const PackedProblem& p) { return p.m <= kFloatRows; }},
    // many rows: arithmetic is the cost, which the dense product does best
    PackedKernel{"packed_dense", Kind::dense, always, always},
};

std::atomic<const PackedKernel*> forced{nullptr};

}  // namespace

std::span<const PackedKernel> packed_kernels() {
  return kKernels;
}

const PackedKernel& choose_packed_kernel(const PackedProblem& problem) {
  const PackedKernel* wanted = forced.load();
  if (wanted != nullptr && wanted->can_run(problem)) return *wanted;
  return *std::ranges::find_if(kKernels, [&](const PackedKernel& kernel) {
    return kernel.can_run(problem) && kernel.is_best(problem);
  });
}

std::string describe_choice(const PackedProblem& problem) {
  return fmt::format("{} for {} bits, [{}, {}] x [{}, {}]", choose_packed_kernel(problem).name, problem.bits,
                     problem.m, problem.k, problem.k, problem.n);
}

void log_choice(const PackedProblem& problem) {
  if (log_level() != LogLevel::debug) return;
  static std::mutex mutex;
  static std::set<std::string> said;
  const std::lock_guard lock(mutex);
  std::string text = describe_choice(problem);
  if (said.insert(text).second) log_debug(text);
}

Status force_requested_kernel() {
  const char* value = std::getenv("PARE_CUDA_KERNEL");
  if (value == nullptr) return {};
  const auto found = std::ranges::find(kKernels, std::string_view(value), &PackedKernel::name);
  if (found == kKernels.end()) {
    std::string names;
    for (const PackedKernel& kernel : kKernels)
      names += (names.empty() ? "" : ", ") + std::string(kernel.name);
    return Error{.exit = Exit::usage,
                 .rule = "CL14",
                 .path = "PARE_CUDA_KERNEL",
                 .where = {},
                 .what = "not a kernel for low-bit products",
                 .got = quote(value),
                 .limit = names,
                 .limit_label = "expected"};
  }
  forced.store(&*found);
  return {};
}

void force_packed_kernel(std::string_view name) {
  if (name.empty()) return forced.store(nullptr);
  const auto found = std::ranges::find(kKernels, name, &PackedKernel::name);
  PARE_ASSERT(found != kKernels.end(), "[packed_matmul] no kernel {}", name);
  forced.store(&*found);
}

}  // namespace pare::cuda
