// Inputs rounded and put in order once for all blocks of packed_fragments; the choice of its format.
#include "engine/backends/cuda/packed_inputs.cuh"
#include "engine/backends/cuda/packed_stripes.h"

namespace pare::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void pack_inputs_kernel(PackedProduct p, unsigned char* to, int64_t quads) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= quads) return;
  const int quads_per_row = p.w.blocks * (kBlockColumns / 4);
  const int64_t row = i / quads_per_row;
  const int place = int(i % quads_per_row) * 4;
  *reinterpret_cast<uint2*>(to + row * p.w.blocks * 128 + input_byte(place)) =
      load_inputs(p, p.x + row * p.x_stride, place, inputs_are_wide(p));
}

}  // namespace

void launch_pack_inputs(Context& context, const PackedProduct& p, unsigned char* to) {
  const int64_t quads = int64_t(p.m) * p.w.blocks * (kBlockColumns / 4);
  context.launch("pack_inputs", pack_inputs_kernel, {.grid = blocks_for(quads, kThreads), .block = kThreads},
                 p, to, quads);
}

StripeGeometry stripe_geometry(const Context& context, const FragmentMatrix& w, int64_t m) {
  return stripe_geometry({.multiprocessors = context.multiprocessors(),
                          .shared_per_multiprocessor = context.properties().sharedMemPerMultiprocessor},
                         m, w.tiles, w.blocks);
}

void packed_stripes(Context& context, const PackedProduct& product, void* workspace) {
  const StripeGeometry geometry = stripe_geometry(context, product.w, product.m);
  auto* inputs = static_cast<unsigned char*>(workspace);
  launch_pack_inputs(context, product, inputs);
  const StripeBuffers buffers{.inputs = inputs,
                              .partials = reinterpret_cast<float*>(inputs + geometry.input_bytes)};
  switch (fragment_format(product.w)) {
    case FragmentFormat::w4:
      return packed_stripes_w4(context, product, geometry, buffers);
    case FragmentFormat::w8:
      return packed_stripes_w8(context, product, geometry, buffers);
    case FragmentFormat::codebook4:
    case FragmentFormat::any:
      return packed_stripes_any(context, product, geometry, buffers);
  }
}

}  // namespace pare::cuda
