// engine/backends/cuda/packed_stripes.h: products of 17 and more rows of inputs with low-bit weights
// (packed_stripes.cuh).
#pragma once

#include "engine/backends/cuda/packed_geometry.h"
#include "engine/backends/cuda/packed_matmul.h"

namespace pare::cuda {

StripeGeometry stripe_geometry(const Context& context, const FragmentMatrix& w, int64_t m);
// workspace: geometry's workspace_bytes, 64-byte aligned.
void packed_stripes(Context& context, const PackedProduct& product, void* workspace);

struct StripeBuffers {
  const unsigned char* inputs;  // bf16 [m, 64 blocks], each block in the order of input_byte()
  float* partials;
};
// x in the order of the layout, rounded to bf16.
void launch_pack_inputs(Context& context, const PackedProduct& p, unsigned char* to);

// By format.
void packed_stripes_w4(Context& context, const PackedProduct& p, const StripeGeometry& s,
                       const StripeBuffers& b);
void packed_stripes_w8(Context& context, const PackedProduct& p, const StripeGeometry& s,
                       const StripeBuffers& b);
void packed_stripes_any(Context& context, const PackedProduct& p, const StripeGeometry& s,
                        const StripeBuffers& b);

}  // namespace pare::cuda
