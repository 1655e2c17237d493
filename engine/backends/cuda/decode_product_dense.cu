// Fused products of dense weights.
#include "engine/backends/cuda/decode_product.h"

namespace pare::cuda {

void launch_dense_product(Context& context, const char* name, WeightKind kind, const ProductKernelArgs& args,
                          bool is_pair) {
  switch (kind) {
    case WeightKind::bf16:
      return launch_product<DenseWeights<__nv_bfloat16>>(context, name, args, is_pair);
    case WeightKind::f16:
      return launch_product<DenseWeights<__half>>(context, name, args, is_pair);
    case WeightKind::f32:
      return launch_product<DenseWeights<float>>(context, name, args, is_pair);
    default:
      PARE_ASSERT(false, "[decode] codes among dense weights");
  }
}

}  // namespace pare::cuda
