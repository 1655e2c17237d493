#include "engine/backends/cpu/kernels.h"

namespace pare::cpu {

const Kernels& kernels(Isa isa) {
  switch (isa) {
    case Isa::avx512:
      return vector_avx512::kKernels;
    case Isa::avx2:
      return vector_avx2::kKernels;
    case Isa::generic:
      break;
  }
  return vector_generic::kKernels;
}

}  // namespace pare::cpu
