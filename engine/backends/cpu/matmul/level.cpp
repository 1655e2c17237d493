#include "engine/backends/cpu/matmul/level.h"

#include "engine/backends/cpu/isa.h"

namespace pare::cpu {

const LevelKernels& level_kernels(Isa isa) {
  switch (isa) {
    case Isa::avx512:
      return avx512::kKernels;
    case Isa::avx2:
      return avx2::kKernels;
    case Isa::generic:
      break;
  }
  return generic::kKernels;
}

}  // namespace pare::cpu
