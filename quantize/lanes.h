// quantize/lanes.h: rounding one column of a sweep (calibrate/column_sweep.h) on sixteen rows at once. Every
// value is computed by the same operations in the same order on all levels: same bytes.
#pragma once

#include <cstdint>

#include "calibrate/column_sweep.h"
#include "quantize/grid.h"

namespace pare {

// Grids of sixteen rows for one group; integer schemes.
struct LaneGrids {
  alignas(64) float scale[kLanes];
  alignas(64) float zero[kLanes];
  alignas(64) float minimum[kLanes];

  void set(int lane, const Grid& grid) {
    scale[lane] = grid.scale;
    zero[lane] = float(grid.zero_point);
    minimum[lane] = grid.minimum;
  }
};

struct LaneKernels {
  // codes[l] and restored[l] of values[l] as encode() and decode() give them on an integer grid whose codes
  // are bottom to top.
  void (*round_column)(const float* values, const LaneGrids& grids, float bottom, float top, int32_t* codes,
                       float* restored);
};

const LaneKernels& lane_kernels(VectorLevel level);

}  // namespace pare
