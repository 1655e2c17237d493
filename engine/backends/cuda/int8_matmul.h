// engine/backends/cuda/int8_matmul.h: products of rounded activations with integer codes, exactly as
// engine/tensor/integer_product.h defines them. The packed form is that of int8_layout.h.
//
// Two kernels after the one that rounds: up to kInt8VectorTokens tokens stream the codes once through dp4a,
// more go through tensor cores (mma m16n8k32). Both add integers, so the result does not depend on which one
// runs.
#pragma once

#include "engine/backends/cuda/context.h"
#include "engine/backends/cuda/int8_layout.h"
#include "engine/tensor/backend.h"

namespace pare::cuda {

constexpr int64_t kInt8VectorTokens = 16;

// Weights with `activation` set, for CudaBackend::{prepack, unpack, packed_matmul}: the packed form lies in
// device memory of `backend`. Exit 4 (PK20), 6.
Result<PackedMatrix> prepack_int8(Backend& backend, const QuantizedTensor& weight);
Result<QuantizedTensor> unpack_int8_from(Backend& backend, const PackedMatrix& packed);
// Bytes for m rounded tokens; 64-byte aligned.
size_t int8_matmul_workspace_bytes(const PackedMatrix& weight, int64_t m);
void int8_matmul(Context& context, const PackedMatmulArgs& a);

// Its two halves, for callers that round once for several weights (q, k and v) or inside the operation
// before. The workspace holds tokens rounded for every weight of the same scheme, `activation` and `in`.
void int8_round(Context& context, const float* x, int64_t m, int64_t x_stride, const PackedMatrix& weight,
                void* workspace);
// `a.x` is not read.
void int8_product(Context& context, const PackedMatmulArgs& a);

// A norm, then int8_round: the same bits as the two. norm.out may be null where nobody else reads it.
void rms_norm_quantize(Context& context, const RmsNormArgs& norm, const PackedMatrix& weight,
                       void* workspace);
void layer_norm_quantize(Context& context, const LayerNormArgs& norm, const PackedMatrix& weight,
                         void* workspace);

// Rounded tokens inside a workspace.
struct Int8Rows {
  int8_t* codes;     // [m, padded columns]
  RoundedRow* rows;  // [m]
  int32_t* sums;     // [m, segments]: sum of (code - zero point) over the columns of a segment
};
Int8Rows int8_rows(const Int8Segments& segments, int64_t m, void* workspace);

}  // namespace pare::cuda
