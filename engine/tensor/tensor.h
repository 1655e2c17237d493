// engine/tensor/tensor.h: a typed view of shared storage. Cheap to copy; never computes.
//
// The storage rule: row-major, last dimension contiguous, [out, in] for weights. A view may skip rows (slice
// of the last dimension of a matrix); everything else is contiguous.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

#include "engine/core/assert.h"
#include "engine/core/result.h"
#include "engine/tensor/device.h"
#include "engine/tensor/dtype.h"
#include "engine/tensor/shape.h"
#include "engine/tensor/storage.h"

namespace pare {

class Tensor {
 public:
  Tensor() = default;  // no storage; defined() is false
  // A view of `storage` from `offset_bytes`, contiguous. Asserts that it fits.
  Tensor(std::shared_ptr<Storage> storage, size_t offset_bytes, DType dtype, Shape shape);

  // New zero-filled tensor; exit 6 when memory is short.
  static Result<Tensor> allocate(DType dtype, const Shape& shape, Device device = Device::cpu());
  // A view of memory that outlives the tensor; for tests and for buffers of the caller.
  static Tensor wrap(void* data, DType dtype, const Shape& shape, Device device = Device::cpu());

  bool defined() const { return storage_ != nullptr; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int64_t size(int axis) const { return shape_[axis]; }
  int64_t numel() const { return shape_.numel(); }
  Device device() const { return device_; }
  // Bytes of the elements, without gaps.
  size_t size_bytes() const { return size_t((numel() * dtype_bits(dtype_) + 7) / 8); }
  // Distance in elements between consecutive rows (all but the last axis flattened).
  int64_t row_stride() const { return row_stride_; }
  bool is_contiguous() const;
  const std::shared_ptr<Storage>& storage() const { return storage_; }

  const std::byte* raw() const;
  std::byte* mutable_raw() const;

  // Element pointers; T must have the width of dtype (float for f32, uint16_t for bf16 and f16, ...).
  template <typename T>
  const T* data() const {
    PARE_ASSERT(int64_t(sizeof(T)) == dtype_bytes(dtype_), "[tensor] {} read as {} bytes", dtype_name(dtype_),
                sizeof(T));
    return reinterpret_cast<const T*>(raw());
  }
  template <typename T>
  T* mutable_data() const {
    PARE_ASSERT(int64_t(sizeof(T)) == dtype_bytes(dtype_), "[tensor] {} read as {} bytes", dtype_name(dtype_),
                sizeof(T));
    return reinterpret_cast<T*>(mutable_raw());
  }

  Tensor reshaped(const Shape& shape) const;         // contiguous only; same numel
  Tensor rows(int64_t begin, int64_t end) const;     // slice of axis 0
  Tensor columns(int64_t begin, int64_t end) const;  // slice of the last axis of a matrix
  Tensor on(Device device) const;                    // same bytes seen by another host backend

 private:
  std::shared_ptr<Storage> storage_;
  size_t offset_bytes_ = 0;
  DType dtype_ = DType::f32;
  Shape shape_;
  int64_t row_stride_ = 1;
  Device device_;
};

// Exact conversion (f32 from bf16, f16, fp8) or rounding to nearest even (to bf16, f16); a new contiguous
// tensor. Saturation and overflow are the caller's to check beforehand (see count_overflow in tensor_scan.h).
Result<Tensor> converted(const Tensor& tensor, DType dtype);
// The same into a contiguous tensor of the same shape that exists; both of weight types.
void convert_into(const Tensor& tensor, Tensor& out);
// A new contiguous tensor with axes 0 and 1 of a matrix swapped.
Result<Tensor> transposed(const Tensor& matrix);

}  // namespace pare
