#include "engine/backends/cuda/packed_vector.h"

namespace pare::cuda {

VectorGeometry vector_geometry(const Context& context, const FragmentMatrix& w, int64_t m) {
  return vector_geometry({.multiprocessors = context.multiprocessors(),
                          .shared_per_multiprocessor = context.properties().sharedMemPerMultiprocessor},
                         m, w.tiles, w.blocks, chunk_blocks(fragment_format(w)));
}

void packed_vector(Context& context, const PackedProduct& product, void* workspace) {
  const VectorGeometry geometry = vector_geometry(context, product.w, product.m);
  auto* partials = static_cast<float*>(workspace);
  switch (fragment_format(product.w)) {
    case FragmentFormat::w4:
      return packed_vector_w4(context, product, geometry, partials);
    case FragmentFormat::w8:
      return packed_vector_w8(context, product, geometry, partials);
    case FragmentFormat::codebook4:
      return packed_vector_codebook4(context, product, geometry, partials);
    case FragmentFormat::any:
      return packed_vector_any(context, product, geometry, partials);
  }
}

}  // namespace pare::cuda
