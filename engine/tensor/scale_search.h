// engine/tensor/scale_search.h: what a matrix's output loses when its columns are scaled before they are
// rounded, for a whole grid of scales: the inner loop of AWQ and SmoothQuant on a device.
//
// Defined by engine/backends/reference/scale_search.cpp. Grids and codes come of the float operations of
// quantize/grid*, so that they are the host's; products are float whatever the math mode, and the losses sums
// in double. All pointers are of the device. Nothing allocates or waits. Any size from 1 on.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/tensor/column_solver.h"

namespace pare {

// losses[c] = tr(E H E^T), E = W - Q(W s_c) / s_c, for each row s_c of scales: every group of `width` columns
// of W s_c gets the range that fit_grids() would give it, with importance / s_c^2, and is rounded to it. NaN
// or infinity where W s_c or the sum does not fit a float.
struct ScaleLossesArgs {
  const float* weight;  // [rows, columns]
  const float* scales;  // [candidates, columns], > 0
  const float* moment;  // H [columns, columns], symmetric
  double* losses;       // [candidates]
  int64_t rows, columns, width, candidates;
  GridFormat format;
  RangeSearch search;  // importance: of the unscaled inputs
  int64_t at_once;     // candidates under way together, 1 to candidates: does not change a bit
  void* workspace;     // workspace_bytes(rows, columns, at_once) bytes, aligned to 64
};

// How many candidates callers ask for at once: the plans of memory count as many copies of the matrix.
inline constexpr int64_t kScalesAtOnce = 4;

class ScaleSearch {
 public:
  virtual ~ScaleSearch() = default;
  virtual size_t workspace_bytes(int64_t rows, int64_t columns, int64_t at_once) const = 0;
  virtual void losses(const ScaleLossesArgs&) = 0;
};

}  // namespace pare
