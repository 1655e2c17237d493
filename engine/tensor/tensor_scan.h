// engine/tensor/tensor_scan.h: one pass over a tensor's values for what must never go unseen.
#pragma once

#include <cstdint>
#include <string>

#include "engine/tensor/tensor.h"

namespace pare {

struct NonFinite {
  int64_t nan_count = 0;
  int64_t infinity_count = 0;
  int64_t first_index = -1;  // flat index of the first of either
  bool any() const { return first_index >= 0; }
};
// Counts NaN and infinite values of a floating tensor; integers have none. Parallel, deterministic.
NonFinite scan_non_finite(const Tensor& tensor);

// Exit 7 with `"name"[row,column]`, count and kind, if the tensor holds a NaN or an infinity (NU01, NU02).
Status require_finite(const Tensor& tensor, const std::string& name, const std::string& path);

// Finite values whose magnitude does not fit `target` (NU03); `first_index` gets the first one.
int64_t count_overflow(const Tensor& tensor, DType target, int64_t* first_index);

// "[12,4031]" for a flat index into `shape`.
std::string index_text(const Shape& shape, int64_t flat_index);

}  // namespace pare
