#include "engine/tensor/tensor.h"

#include "engine/core/checked.h"

namespace pare {
namespace {

// Rows of the flattened matrix: everything but the last axis.
int64_t row_count(const Shape& shape) {
  int64_t rows = 1;
  for (int axis = 0; axis + 1 < shape.rank(); ++axis) rows *= shape[axis];
  return rows;
}

int64_t row_width(const Shape& shape) {
  return shape.rank() == 0 ? 1 : shape[-1];
}

// Bytes of `elements` elements; sub-byte types must end on a byte.
size_t whole_bytes(int64_t elements, DType dtype) {
  const int64_t bits = elements * dtype_bits(dtype);
  PARE_ASSERT(bits % 8 == 0, "[tensor] {} elements of {} do not end on a byte", elements, dtype_name(dtype));
  return size_t(bits / 8);
}

}  // namespace

Tensor::Tensor(std::shared_ptr<Storage> storage, size_t offset_bytes, DType dtype, Shape shape)
    : storage_(std::move(storage)),
      offset_bytes_(offset_bytes),
      dtype_(dtype),
      shape_(shape),
      row_stride_(row_width(shape)) {
  PARE_ASSERT(storage_ != nullptr, "[tensor] no storage");
  device_ = storage_->device();
  PARE_ASSERT(offset_bytes <= storage_->size_bytes() && size_bytes() <= storage_->size_bytes() - offset_bytes,
              "[tensor] {} {} at {} in {} bytes", dtype_name(dtype), shape.text(), offset_bytes,
              storage_->size_bytes());
}

Result<Tensor> Tensor::allocate(DType dtype, const Shape& shape, Device device) {
  Checked bits = uint64_t(dtype_bits(dtype));
  for (int64_t size : shape.sizes()) bits *= Checked(uint64_t(size));
  if (!bits.valid() || bits.value() > uint64_t(INT64_MAX) - 7) {
    return Error{.exit = Exit::resource,
                 .rule = "RL01",
                 .path = device.name(),
                 .where = {},
                 .what = "tensor does not fit into memory",
                 .got = shape.text(),
                 .limit = {}};
  }
  PARE_TRY(auto storage, Storage::allocate(size_t((bits.value() + 7) / 8), device));
  return Tensor(std::move(storage), 0, dtype, shape);
}

Tensor Tensor::wrap(void* data, DType dtype, const Shape& shape, Device device) {
  const size_t bytes = size_t((shape.numel() * dtype_bits(dtype) + 7) / 8);
  return Tensor(Storage::adopt(data, bytes, nullptr, device), 0, dtype, shape);
}

bool Tensor::is_contiguous() const {
  return row_stride_ == row_width(shape_) || row_count(shape_) <= 1;
}

const std::byte* Tensor::raw() const {
  PARE_ASSERT(defined(), "[tensor] read of an undefined tensor");
  return storage_->data() + offset_bytes_;
}

std::byte* Tensor::mutable_raw() const {
  PARE_ASSERT(defined(), "[tensor] write to an undefined tensor");
  return storage_->mutable_data() + offset_bytes_;
}

Tensor Tensor::reshaped(const Shape& shape) const {
  PARE_ASSERT(is_contiguous(), "[tensor] reshape of a view with gaps, {}", shape_.text());
  PARE_ASSERT(shape.numel() == numel(), "[tensor] reshape of {} to {}", shape_.text(), shape.text());
  Tensor result = *this;
  result.shape_ = shape;
  result.row_stride_ = row_width(shape);
  return result;
}

Tensor Tensor::rows(int64_t begin, int64_t end) const {
  PARE_ASSERT(shape_.rank() >= 1 && begin >= 0 && begin <= end && end <= shape_[0],
              "[tensor] rows {} to {} of {}", begin, end, shape_.text());
  const int64_t rows_per_slice = shape_[0] == 0 ? 0 : row_count(shape_) / shape_[0];
  const int64_t slice_stride = shape_.rank() == 1 ? 1 : rows_per_slice * row_stride_;
  Tensor result = *this;
  result.offset_bytes_ += whole_bytes(begin * slice_stride, dtype_);
  result.shape_[0] = end - begin;
  if (shape_.rank() == 1) result.row_stride_ = end - begin;
  return result;
}

Tensor Tensor::columns(int64_t begin, int64_t end) const {
  PARE_ASSERT(shape_.rank() >= 1 && begin >= 0 && begin <= end && end <= shape_[-1],
              "[tensor] columns {} to {} of {}", begin, end, shape_.text());
  Tensor result = *this;
  result.offset_bytes_ += whole_bytes(begin, dtype_);
  whole_bytes(row_stride_, dtype_);  // every row must start on a byte
  result.shape_[-1] = end - begin;
  return result;
}

Tensor Tensor::on(Device device) const {
  PARE_ASSERT(device_.is_host() && device.is_host(), "[tensor] bytes of {} cannot be seen by {}",
              device_.name(), device.name());
  Tensor result = *this;
  result.device_ = device;
  return result;
}

}  // namespace pare
