// quantize/joint_rounder.h: the grids of a scheme for a method that prunes and rounds in one sweep
// (algorithms.md 5.14).
#pragma once

#include "calibrate/column_sweep.h"
#include "quantize/quantizer.h"

namespace pare {

// Groups that lie within a block of the sweep in natural order get their grids from what is kept there;
// others, and rows, from the weights before the sweep. Ranges are searched below 8 bits, with the mean
// squares of the inputs as weights. Exit 4 (RC14) for schemes whose codes cannot be zero or that have one
// scale per tensor.
Result<RounderFactory> joint_rounder(const QuantScheme& scheme, int64_t block, bool is_natural_order,
                                     bool clamp_scales);

}  // namespace pare
