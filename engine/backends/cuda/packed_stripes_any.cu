// packed_fragments for every other scheme: codebooks, fp8, odd widths, small groups, scales of any type.
#include "engine/backends/cuda/packed_stripes.cuh"

namespace pare::cuda {

void packed_stripes_any(Context& context, const PackedProduct& p, const StripeGeometry& s,
                        const StripeBuffers& b) {
  if (p.w.scale_type == ScaleType::f32) {
    launch_packed_stripes<AnyFormat, 1, true>(context, p, s, b);
  } else {
    launch_packed_stripes<AnyFormat, 1, false>(context, p, s, b);
  }
}

}  // namespace pare::cuda
