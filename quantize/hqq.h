// quantize/hqq.h: rounding whose zero points are moved so that few large errors replace many small ones. Data
// free. Source: Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023).
#pragma once

#include "quantize/quantizer.h"

namespace pare {

struct HqqOptions {
  double power = 0.7;  // of the error whose sum is minimised
  double beta = 10.0;  // weight of the half-quadratic term, multiplied by `growth` in each round
  double growth = 1.01;
  int rounds = 20;
};

// Per group, with the scale of the start (smallest to largest weight, or the searched range) fixed:
//   q = codes;  D = w - what, in steps;  E = sign(D) max(0, |D| - |D|^(power-1) / beta)
//   offset = mean(w - E - scale q), rounded to its storage type;  stop when mean |D| does not fall
// so the mean error of a group is never above that of the start. Unlike in the paper errors are in steps of
// the grid, so that a factor on the weights changes no code, and each group stops by itself. With importances
// all means are weighted by them. Needs an offset: "-asymf" (as in the paper) or "-asym" (rounded to a whole
// zero point); exit 4 (RC14) for other schemes.
FittedGrid fit_half_quadratic(const QuantScheme& scheme, const FittedGrid& start,
                              std::span<const float> group, std::span<const float> importance,
                              const HqqOptions& hqq = {});

Result<QuantizeOutput> half_quadratic(const Tensor& weight, const QuantScheme& scheme,
                                      const QuantizeOptions& options, std::string_view name);

}  // namespace pare
