// engine/tensor/ops/checks.h: what every op asks of its tensors.
#pragma once

#include <algorithm>
#include <string_view>

#include "engine/tensor/tensor.h"

namespace pare::ops {

// Width of a row and number of rows with the leading axes flattened.
inline int64_t columns_of(const Tensor& x) {
  return x.size(-1);
}
inline int64_t rows_of(const Tensor& x) {
  int64_t rows = 1;
  for (int axis = 0; axis + 1 < x.shape().rank(); ++axis) rows *= x.size(axis);
  return rows;
}

inline void require_type(std::string_view op, std::string_view name, const Tensor& x, DType dtype) {
  PARE_ASSERT(x.defined(), "[{}] {} is undefined", op, name);
  PARE_ASSERT(x.dtype() == dtype, "[{}] {} is {}, not {}", op, name, dtype_name(x.dtype()),
              dtype_name(dtype));
}

// f32 with at least one axis.
inline void require_activations(std::string_view op, std::string_view name, const Tensor& x) {
  require_type(op, name, x, DType::f32);
  PARE_ASSERT(x.shape().rank() >= 1, "[{}] {} has no axis", op, name);
}

inline void require_same_shape(std::string_view op, const Tensor& x, const Tensor& y) {
  PARE_ASSERT(x.shape() == y.shape(), "[{}] {} and {}", op, x.shape().text(), y.shape().text());
}

inline void require_same_device(std::string_view op, const Tensor& x, const Tensor& y) {
  PARE_ASSERT(x.device() == y.device(), "[{}] tensors on {} and {}", op, x.device().name(),
              y.device().name());
}

// Contiguous vector of `count` elements.
inline void require_vector(std::string_view op, std::string_view name, const Tensor& x, DType dtype,
                           int64_t count) {
  require_type(op, name, x, dtype);
  PARE_ASSERT(x.numel() == count && x.is_contiguous(), "[{}] {} {} for {} elements", op, name,
              x.shape().text(), count);
}

// Ids within [low, high). Memory of a GPU is not read back; whoever copied the ids there checked them.
inline void require_ids(std::string_view op, const Tensor& ids, int64_t low, int64_t high) {
  if (!ids.device().is_host()) return;
  const int32_t* data = ids.data<int32_t>();
  for (int64_t i = 0; i < ids.numel(); ++i) {
    PARE_ASSERT(data[i] >= low && data[i] < high, "[{}] id {} at {} is not within {} to {}", op, data[i], i,
                low, high - 1);
  }
}

inline bool is_half_or_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16;
}

}  // namespace pare::ops
