// engine/backends/cuda/sparse_matmul.h: products with sparse matrices, of the layouts of sparse_layout.h.
//
// 16-bit products of 2:4 matrices run on sparse tensor cores for any number of tokens. Float products, and
// masked matrices, run on vector kernels up to kSparseVectorTokens tokens; more multiply the dense form, made
// anew in the workspace.
#pragma once

#include "engine/backends/cuda/backend_class.h"

namespace pare::cuda {

size_t sparse_matmul_workspace_bytes(const CudaBackend& backend, const PackedMatrix& weight, int64_t m);
// Of any sparse form that is not expanded.
size_t planned_sparse_workspace_bytes(int64_t m, int64_t k);
void sparse_matmul(CudaBackend& backend, const PackedMatmulArgs& a);

}  // namespace pare::cuda
