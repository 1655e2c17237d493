// quantize/grid_error.h: the squared error of a group on an integer grid, as fast as searches need it. The
// same bytes on every machine: vectors of any width add the same sixteen partial sums.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "calibrate/vector_level.h"
#include "quantize/grid.h"

namespace pare {

// Weights and their importances (1 when none are given), padded with zeros to a multiple of 16.
class PaddedGroup {
 public:
  PaddedGroup(std::span<const float> values, std::span<const float> importance);
  const float* values() const { return storage_.data(); }
  const float* importance() const { return storage_.data() + size_; }
  int64_t size() const { return size_; }

 private:
  int64_t size_;
  std::vector<float> storage_;
};

// sum u (dequantize(quantize(v)) - v)^2. Divides by multiplying with the reciprocal, so a value on a rounding
// tie may take the other code: for ranking grids only.
double squared_error(const QuantScheme& scheme, const Grid& grid, const PaddedGroup& group,
                     VectorLevel level = host_vector_level());

}  // namespace pare
