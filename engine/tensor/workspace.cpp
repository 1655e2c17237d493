#include "engine/tensor/workspace.h"

#include <algorithm>

#include "engine/tensor/backend.h"

namespace pare {
namespace {

constexpr size_t kAlignment = 64;

}  // namespace

Result<Workspace> Workspace::reserve(size_t bytes, Device device) {
  const size_t capacity = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  Workspace workspace;
  PARE_TRY(workspace.storage_,
           device.is_host() ? Storage::allocate(capacity, device) : backend_for(device).allocate(capacity));
  workspace.device_ = device;
  return workspace;
}

size_t Workspace::bytes_for(DType dtype, const Shape& shape) {
  const size_t bytes = size_t((shape.numel() * dtype_bits(dtype) + 7) / 8);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

Tensor Workspace::take(DType dtype, const Shape& shape) {
  const size_t bytes = bytes_for(dtype, shape);
  PARE_ASSERT(bytes <= capacity() - used_, "[workspace] {} {} needs {} bytes, {} of {} are left",
              dtype_name(dtype), shape.text(), bytes, capacity() - used_, capacity());
  if (storage_ == nullptr) {  // nothing was reserved, and nothing is needed
    storage_ = Storage::adopt(nullptr, 0, nullptr, device_);
  }
  Tensor tensor(storage_, used_, dtype, shape);
  used_ += bytes;
  peak_ = std::max(peak_, used_);
  return tensor;
}

}  // namespace pare
