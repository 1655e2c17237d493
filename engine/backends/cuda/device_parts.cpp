#include "engine/backends/cuda/device_parts.h"

namespace pare::cuda {

Result<Tensor> to_device(Backend& backend, const Tensor& tensor) {
  if (!tensor.defined()) return tensor;
  PARE_TRY(std::shared_ptr<Storage> storage, backend.allocate(tensor.size_bytes()));
  if (tensor.size_bytes() > 0)
    PARE_CHECK(backend.upload(storage->mutable_data(), tensor.raw(), tensor.size_bytes()));
  return Tensor(std::move(storage), 0, tensor.dtype(), tensor.shape());
}

Result<Tensor> to_host(Backend& backend, const Tensor& tensor) {
  if (!tensor.defined()) return tensor;
  PARE_TRY(Tensor host, Tensor::allocate(tensor.dtype(), tensor.shape()));
  if (tensor.size_bytes() > 0)
    PARE_CHECK(backend.download(host.mutable_raw(), tensor.raw(), tensor.size_bytes()));
  return host;
}

Result<PackedMatrix> parts_to_device(Backend& backend, PackedMatrix packed) {
  for (Tensor* part : {&packed.codes, &packed.scales, &packed.offsets, &packed.starts}) {
    PARE_TRY(*part, to_device(backend, *part));
  }
  return packed;
}

Result<PackedMatrix> parts_to_host(Backend& backend, PackedMatrix packed) {
  for (Tensor* part : {&packed.codes, &packed.scales, &packed.offsets, &packed.starts}) {
    PARE_TRY(*part, to_host(backend, *part));
  }
  return packed;
}

}  // namespace pare::cuda
