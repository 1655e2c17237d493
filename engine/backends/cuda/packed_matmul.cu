// prepack, unpack and packed_matmul: which family of kernels a packed matrix belongs to.
#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/int8_matmul.h"
#include "engine/backends/cuda/sparse_layout.h"
#include "engine/backends/cuda/sparse_matmul.h"

namespace pare::cuda {

Result<PackedMatrix> CudaBackend::prepack(std::shared_ptr<const QuantizedTensor> weight) {
  PARE_ASSERT(weight != nullptr, "[prepack] nothing to pack");
  if (weight->activation) return prepack_int8(*this, *weight);
  return Error{.exit = Exit::unsupported,
               .rule = "CU01",
               .path = "cuda",
               .where = {},
               .what = "no product with these codes",
               .got = weight->scheme.text(),
               .limit = {}};
}

Result<QuantizedTensor> CudaBackend::unpack(const PackedMatrix& packed) {
  PARE_ASSERT(is_int8_layout(packed.layout), "[unpack] layout {}", packed.layout.name);
  return unpack_int8_from(*this, packed);
}

size_t CudaBackend::packed_matmul_workspace_bytes(const PackedMatrix& weight, int64_t m) const {
  if (is_sparse_layout(weight.layout)) return sparse_matmul_workspace_bytes(*this, weight, m);
  PARE_ASSERT(is_int8_layout(weight.layout), "[packed_matmul] layout {}", weight.layout.name);
  return int8_matmul_workspace_bytes(weight, m);
}

void CudaBackend::packed_matmul(const PackedMatmulArgs& a) {
  if (is_sparse_layout(a.weight->layout)) return sparse_matmul(*this, a);
  PARE_ASSERT(is_int8_layout(a.weight->layout), "[packed_matmul] layout {}", a.weight->layout.name);
  int8_matmul(*context_, a);
}

}  // namespace pare::cuda
