// Operations that no file of this folder defines yet. Shrinks to nothing.
#include "engine/backends/cuda/backend_class.h"

namespace pare::cuda {

DecodeBackend* CudaBackend::decoding() {
  return nullptr;
}

}  // namespace pare::cuda
