#include "calibrate/held_zeros.h"

#include "engine/tensor/sparse_detect.h"

namespace pare {

Result<std::optional<Mask>> held_zeros(const Tensor& weight) {
  PARE_TRY(Mask mask, nonzero_mask(weight));
  const int64_t weights = weight.numel(), zeros = weights - mask.kept_count();
  if (zeros * 10 < weights) return std::optional<Mask>();
  return std::optional(std::move(mask));
}

}  // namespace pare
