// prune/magnitude.h: removing the smallest weights of a matrix as it is stored, at the speed of memory.
// Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks" (2015).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/core/result.h"
#include "engine/tensor/tensor.h"

namespace pare {

// Counts of magnitudes of 16-bit floats: their 15 bits without the sign rise with the magnitude, so that
// counts over all of them give the exact cut in one pass.
class MagnitudeCounts {
 public:
  MagnitudeCounts();
  // weight: bf16 or f16. Exit 7 (NU01, NU02) as require_finite().
  Status add(const Tensor& weight, const std::string& name, const std::string& path);
  void add(const MagnitudeCounts& other);
  struct Cut {
    uint16_t key = 0;  // magnitudes below it go
    int64_t ties = 0;  // and the first so many equal to it
  };
  Cut cut(int64_t k) const;
  // Sums of squares of all weights, and of those that a cut removes.
  struct Energy {
    double total = 0.0, removed = 0.0;
    double largest_removed = 0.0;  // magnitude
  };
  Energy energy(const Cut& cut) const;

 private:
  DType dtype_ = DType::bf16;
  std::vector<int64_t> bins_;
};

// A copy with +0 for what the cut removes, in row order; counts `end.ties` down, for cuts over several
// matrices. zeros: how many weights are zero in the result. Same bytes for any thread count.
Result<Tensor> cut_magnitudes(const Tensor& weight, MagnitudeCounts::Cut& end, int64_t* zeros);

}  // namespace pare
