// quantize/lanes.h: the inner loops of error propagation on sixteen rows at once. Values of one column stand
// side by side ("lanes"), so that rounding and subtracting are vector operations across rows. Every value is
// computed by the same operations in the same order on all levels: same bytes.
#pragma once

#include <cstdint>

#include "quantize/grid.h"
#include "calibrate/vector_level.h"

namespace pare {

inline constexpr int kLanes = 16;

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
  // values[j][l] -= errors[l] * upper[j] for the `count` columns at `values` [count, kLanes]
  void (*subtract)(float* values, const float* errors, const float* upper, int64_t count);
};

const LaneKernels& lane_kernels(VectorLevel level);

}  // namespace pare
