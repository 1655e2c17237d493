// Operations that no file of this folder defines yet. Shrinks to nothing.
#include "engine/backends/cuda/backend_class.h"

namespace pare::cuda {

KernelChoice CudaBackend::choose_sparse(const SparseSummary&) const {
  return {false, "not there yet"};
}
Result<PackedMatrix> CudaBackend::prepack_sparse(std::shared_ptr<const SparseTensor>) {
  return Error{.exit = Exit::unsupported,
               .rule = "CU01",
               .path = "cuda",
               .where = {},
               .what = "prepack_sparse is not there yet",
               .got = {},
               .limit = {}};
}
Result<SparseTensor> CudaBackend::unpack_sparse(const PackedMatrix&) {
  return Error{.exit = Exit::unsupported,
               .rule = "CU01",
               .path = "cuda",
               .where = {},
               .what = "unpack_sparse is not there yet",
               .got = {},
               .limit = {}};
}
DecodeBackend* CudaBackend::decoding() {
  return nullptr;
}

}  // namespace pare::cuda
