// quantize/grid.h: the grid of a group of weights, that is, which real number each code stands for.
//
// Scales and minimums are rounded to their storage type before any code is computed, so that what is stored
// is what was optimised. Source: docs/methods.md.
#pragma once

#include <cstdint>
#include <span>

#include "engine/tensor/quant_scheme.h"

namespace pare {

struct Grid {
  float scale = 1.0f;    // > 0 and exact in the scheme's scale type
  int zero_point = 0;    // code of 0.0; schemes with Offset::none: the constant 2^(bits-1)
  float minimum = 0.0f;  // Offset::minimum only: the real number of code 0
};

// Why a scale is not what the range asked for.
enum class ScaleFault : uint8_t {
  none,
  raised,     // a subnormal value of the scale type: raised to the smallest normal one; the codes shrink a
              // little
  too_small,  // below every value of the scale type
  too_large,  // above its largest finite value
};

struct FittedGrid {
  Grid grid;
  ScaleFault fault = ScaleFault::none;  // the grid then holds the nearest normal scale
};

// The grid that covers [low, high] (integer and floating schemes: 0 is put into the range, except for
// Offset::minimum; codebooks: scale = absolute maximum). A range of zeros gives scale 1; so does one of
// subnormals only, whose weights then become exact zeros.
FittedGrid fit_range(const QuantScheme& scheme, float low, float high);

// The grid of a group by its smallest and largest value.
FittedGrid fit_min_max(const QuantScheme& scheme, std::span<const float> group);

struct ClipSearch {
  double power = 2.4;  // of the error that is minimised; 2 is the mean squared error
  int steps = 80;      // ranges tried: factors 1, 1 - 1/grid, ...
  int grid = 100;
};

// The grid with the smallest sum u |dequantize(quantize(v)) - v|^power over shrunken ranges, u = importance
// of each weight (empty: 1); the widest range wins ties, so the error is never above that of fit_min_max.
FittedGrid fit_clipped(const QuantScheme& scheme, std::span<const float> group, const ClipSearch& search,
                       std::span<const float> importance = {});

// Codes of a group, one per byte, and the values they stand for (float, as QuantizedTensor::dequantize
// computes them).
void encode(const QuantScheme& scheme, const Grid& grid, std::span<const float> group, uint8_t* codes);
void decode(const QuantScheme& scheme, const Grid& grid, std::span<const uint8_t> codes, float* out);

// `value` rounded to f16, bf16 or f32.
float round_to(DType dtype, float value);

}  // namespace pare
