// engine/backends/cpu/matmul/matmul.h: the matrix products of the CPU backend, dense and with codes.
//
// Each product is a table of kernels; the choice follows from level, shape and layout alone. Sums are in
// float, in an order that does not depend on the number of threads. Nothing allocates but prepack and unpack.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/backends/cpu/isa.h"
#include "engine/tensor/backend.h"

namespace pare::cpu {

size_t matmul_workspace_bytes(Isa isa, int64_t m, int64_t n, int64_t k);
void matmul(Isa isa, const MatmulArgs& args);

// Repacks into the layout of `isa` (tile_layout.h), or keeps the canonical form when there is none: columns
// in another order of groups, codebooks of other sizes, f8_e5m2. Error: exit 6 without memory.
Result<PackedMatrix> prepack(Isa isa, std::shared_ptr<const QuantizedTensor> weight);
// The inverse, exact. Error: exit 6.
Result<QuantizedTensor> unpack(const PackedMatrix& packed);

size_t packed_matmul_workspace_bytes(Isa isa, const PackedMatrix& weight, int64_t m);
// Asserts that the layout is one of `isa`.
void packed_matmul(Isa isa, const PackedMatmulArgs& args);

// The kernel that the table chooses, "avx512 dense_gemv".
std::string matmul_kernel_name(Isa isa, int64_t m, DType weight_dtype);
std::string matmul_kernel_name(Isa isa, const PackedMatrix& weight, int64_t m);

// For tests and benchmarks: the names that can run a problem, and running with one of them. Integer products have
// their own list (int8.h).
std::vector<std::string_view> matmul_kernels();
std::vector<std::string_view> packed_matmul_kernels(const PackedMatrix& weight);
void matmul_with(std::string_view kernel, Isa isa, const MatmulArgs& args);
void packed_matmul_with(std::string_view kernel, Isa isa, const PackedMatmulArgs& args);

}  // namespace pare::cpu
