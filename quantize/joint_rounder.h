// quantize/joint_rounder.h: the grids of a scheme for a method that prunes and rounds in one sweep
// (algorithms.md 5.14).
#pragma once

#include "calibrate/column_sweep.h"
#include "quantize/quantizer.h"

namespace pare {

// The grids fit the weight that the factory is given: that of a first sweep without rounding, whose survivors
// have grown to make up for what went. Ranges are searched below 8 bits, with the mean squares of the inputs
// as weights. Exit 4 (RC14) for schemes whose codes cannot be zero, or that have one scale per tensor.
Result<RounderFactory> joint_rounder(const QuantScheme& scheme, bool clamp_scales);

}  // namespace pare
