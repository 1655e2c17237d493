// engine/backends/cuda/packed_vector.h: products of up to 16 rows of inputs with low-bit weights
// (packed_vector.cuh).
#pragma once

#include "engine/backends/cuda/packed_geometry.h"
#include "engine/backends/cuda/packed_matmul.h"

namespace pare::cuda {

VectorGeometry vector_geometry(const Context& context, const FragmentMatrix& w, int64_t m);
// workspace: geometry's workspace_bytes.
void packed_vector(Context& context, const PackedProduct& product, void* workspace);

// By format.
void packed_vector_w4(Context& context, const PackedProduct& p, const VectorGeometry& v, float* partials);
void packed_vector_w8(Context& context, const PackedProduct& p, const VectorGeometry& v, float* partials);
void packed_vector_codebook4(Context& context, const PackedProduct& p, const VectorGeometry& v,
                             float* partials);
void packed_vector_any(Context& context, const PackedProduct& p, const VectorGeometry& v, float* partials);

}  // namespace pare::cuda
