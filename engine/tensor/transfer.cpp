#include "engine/tensor/transfer.h"

#include <cstring>

#include "engine/core/assert.h"
#include "engine/tensor/backend.h"

namespace pare {
namespace {

// A matrix of bytes: contiguous tensors are one row.
struct Bytes {
  int64_t rows, width, stride;
};

Bytes bytes_of(const Tensor& tensor) {
  const auto total = int64_t(tensor.size_bytes());
  if (tensor.is_contiguous()) return {1, total, total};
  const int64_t rows = tensor.numel() / tensor.size(-1);
  return {rows, total / rows, tensor.row_stride() * dtype_bits(tensor.dtype()) / 8};
}

// The same bytes as rows of `other`, when this is one row and the other is not.
Bytes like(const Bytes& bytes, const Bytes& other) {
  return bytes.rows == 1 ? Bytes{other.rows, other.width, other.rows == 1 ? bytes.stride : other.width}
                         : bytes;
}

}  // namespace

Result<Tensor> moved(const Tensor& tensor, Device device) {
  if (!tensor.defined() || tensor.device() == device) return tensor;
  if (tensor.device().is_host() && device.is_host()) return tensor.on(device);
  const size_t bytes = tensor.size_bytes();
  Tensor result;
  if (device.is_host()) {
    PARE_TRY(result, Tensor::allocate(tensor.dtype(), tensor.shape(), device));
  } else {
    PARE_TRY(std::shared_ptr<Storage> storage, backend_for(device).allocate(bytes));
    result = Tensor(std::move(storage), 0, tensor.dtype(), tensor.shape());
  }
  PARE_CHECK(copy_into(tensor, result));
  return result;
}

Status copy_into(const Tensor& from, const Tensor& to) {
  PARE_ASSERT(from.dtype() == to.dtype() && from.shape() == to.shape(), "[copy_into] {} {} to {} {}",
              dtype_name(from.dtype()), from.shape().text(), dtype_name(to.dtype()), to.shape().text());
  if (from.numel() == 0) return {};
  const Device source = from.device(), target = to.device();
  Bytes a = bytes_of(from), b = bytes_of(to);
  a = like(a, b);
  b = like(b, a);
  if (source.is_host() && target.is_host()) {
    for (int64_t row = 0; row < a.rows; ++row)
      std::memcpy(to.mutable_raw() + row * b.stride, from.raw() + row * a.stride, size_t(a.width));
    return {};
  }
  if (source == target) {
    backend_for(target).copy_rows({.x = from.raw(),
                                   .out = to.mutable_raw(),
                                   .rows = a.rows,
                                   .width = a.width,
                                   .x_stride = a.stride,
                                   .out_stride = b.stride});
    return {};
  }
  PARE_ASSERT(source.is_host() != target.is_host(), "[copy_into] from {} to {}", source.name(),
              target.name());
  for (int64_t row = 0; row < a.rows; ++row) {
    const std::byte* x = from.raw() + row * a.stride;
    std::byte* out = to.mutable_raw() + row * b.stride;
    if (source.is_host()) {
      PARE_CHECK(backend_for(target).upload(out, x, size_t(a.width)));
    } else {
      PARE_CHECK(backend_for(source).download(out, x, size_t(a.width)));
    }
  }
  return {};
}

void clear(const Tensor& tensor) {
  if (!tensor.defined() || tensor.numel() == 0) return;
  const Bytes bytes = bytes_of(tensor);
  for (int64_t row = 0; row < bytes.rows; ++row) {
    std::byte* out = tensor.mutable_raw() + row * bytes.stride;
    if (tensor.device().is_host()) {
      std::memset(out, 0, size_t(bytes.width));
    } else {
      backend_for(tensor.device()).zero(out, size_t(bytes.width));
    }
  }
}

}  // namespace pare
