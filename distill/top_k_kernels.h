// distill/top_k_kernels.h: the passes over a row of logits that top_k.cpp is made of; internal to it.
//
// A row is seen as vectors of kTopKLanes values. All levels do the same operations in the same order: same
// bytes.
#pragma once

#include <cstdint>

#include "calibrate/vector_level.h"

namespace pare {

inline constexpr int64_t kTopKLanes = 16;

struct TopKKernels {
  // maxima[lane] = largest of values[row * lanes + lane] over `rows` rows; false when one is NaN or +inf.
  bool (*group_maxima)(const float* values, int64_t rows, float* maxima);
  // Positions of values >= threshold among rows * lanes, ascending; how many.
  int64_t (*at_least)(const float* values, int64_t rows, float threshold, int32_t* positions);
  // Sum of exp((value - largest) * factor) over values < bound. largest >= all values, factor > 0. Relative
  // error of a term below 2e-7; terms below exp(-87) are taken to be that.
  double (*exp_sum_below)(const float* values, int64_t rows, float largest, float bound, float factor);
};

const TopKKernels& top_k_kernels(VectorLevel level);

}  // namespace pare
