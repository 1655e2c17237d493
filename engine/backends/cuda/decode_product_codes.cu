// Fused products of weights in 4 and 8 bits.
#include "engine/backends/cuda/decode_product.h"

namespace pare::cuda {

void launch_code_product(Context& context, const char* name, WeightKind kind, const ProductKernelArgs& args,
                         bool is_pair) {
  switch (kind) {
    case WeightKind::codes4:
      return launch_product<CodeWeights<4, 1>>(context, name, args, is_pair);
    case WeightKind::codes4_g32:
      return launch_product<CodeWeights<4, 2>>(context, name, args, is_pair);
    case WeightKind::codes8:
      return launch_product<CodeWeights<8, 1>>(context, name, args, is_pair);
    case WeightKind::codes8_g32:
      return launch_product<CodeWeights<8, 2>>(context, name, args, is_pair);
    default:
      PARE_ASSERT(false, "[decode] dense weights among codes");
  }
}

}  // namespace pare::cuda
