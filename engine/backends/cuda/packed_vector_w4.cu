// packed_vector for integers of 4 bits.
#include "engine/backends/cuda/packed_vector.cuh"

namespace pare::cuda {

void packed_vector_w4(Context& context, const PackedProduct& p, const VectorGeometry& v, float* partials) {
  if (steps_per_grid(p.w) == 4) {
    launch_packed_vector<Int4Format, 4, false>(context, p, v, partials);
  } else {
    launch_packed_vector<Int4Format, 2, false>(context, p, v, partials);
  }
}

}  // namespace pare::cuda
