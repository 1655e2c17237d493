#include "engine/tensor/packed_layout.h"

namespace pare {

uint64_t PackedMatrix::size_bytes() const {
  if (canonical != nullptr) return canonical->size_bytes();
  if (canonical_sparse != nullptr) return canonical_sparse->size_bytes();
  uint64_t total = 0;
  for (const Tensor* part : {&codes, &scales, &offsets, &starts}) {
    if (part->defined()) total += part->size_bytes();
  }
  return total;
}

}  // namespace pare
