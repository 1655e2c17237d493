// engine/backends/cpu/sparse/sparse.h: products with matrices of which only the kept weights are stored.
//
// Few activation rows stream the packed weights once (sparse_level.h); many rows use the blocked product over
// panels of floats. Sums are in float, in an order that does not depend on the number of threads, and the
// same for all kernels of a level.
#pragma once

#include <memory>
#include <vector>

#include "engine/backends/cpu/isa.h"
#include "engine/backends/cpu/sparse/sparse_layout.h"
#include "engine/tensor/backend.h"

namespace pare::cpu {

// Repacks for the kernels of `isa`. Asserts has_sparse_form(). Error: exit 6.
Result<PackedMatrix> sparse_prepack(const SparseKernels& kernels, const SparseTensor& weight);
// The inverse, exact. Error: exit 6.
Result<SparseTensor> sparse_unpack(const PackedMatrix& packed);

size_t sparse_workspace_bytes(const PackedMatrix& weight, int64_t m);
// Asserts that the layout is one of `kernels`.
void sparse_matmul(Isa isa, const SparseKernels& kernels, const PackedMatmulArgs& args);

// What this host can run at a level, best first; the first is what the backend uses.
std::vector<const SparseKernels*> sparse_kernels(Isa isa);
// The kernels whose layout a matrix has.
const SparseKernels& kernels_of(Isa isa, const PackedMatrix& packed);

// For tests and benchmarks: one of "gemv" (few rows) and "gemm" whatever the number of rows.
void sparse_matmul_with(std::string_view kernel, Isa isa, const SparseKernels& kernels,
                        const PackedMatmulArgs& args);

}  // namespace pare::cpu
