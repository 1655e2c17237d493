// packed_fragments for integers of 8 bits.
#include "engine/backends/cuda/packed_stripes.cuh"

namespace pare::cuda {

void packed_stripes_w8(Context& context, const PackedProduct& p, const StripeGeometry& s,
                       const StripeBuffers& b) {
  if (steps_per_grid(p.w) == 4) {
    launch_packed_stripes<Int8Format, 4, false>(context, p, s, b);
  } else {
    launch_packed_stripes<Int8Format, 2, false>(context, p, s, b);
  }
}

}  // namespace pare::cuda
