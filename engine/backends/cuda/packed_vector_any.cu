// packed_vector for every other scheme.
#include "engine/backends/cuda/packed_vector.cuh"

namespace pare::cuda {

void packed_vector_any(Context& context, const PackedProduct& p, const VectorGeometry& v, float* partials) {
  if (p.w.scale_type == ScaleType::f32)
    return launch_packed_vector<AnyFormat, 1, true>(context, p, v, partials);
  if (steps_per_grid(p.w) == 4) {
    launch_packed_vector<AnyFormat, 4, false>(context, p, v, partials);
  } else {
    launch_packed_vector<AnyFormat, 1, false>(context, p, v, partials);
  }
}

}  // namespace pare::cuda
