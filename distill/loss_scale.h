// distill/loss_scale.h: dynamic scaling of the loss for gradients in f16. A step whose gradients overflow is
// skipped and halves the scale; 2000 good steps in a row double it. Source: Micikevicius et al., "Mixed
// precision training" (2018).
#pragma once

#include <cstdint>

#include "engine/core/result.h"

namespace pare {

struct LossScale {
  static constexpr double kFirst = 65536.0;
  static constexpr int64_t kGoodSteps = 2000;

  double scale = 1.0;      // kFirst when gradients are f16
  int64_t good_steps = 0;  // since the last change
  bool is_dynamic = false;

  static LossScale none() { return {}; }
  static LossScale dynamic() { return {.scale = kFirst, .good_steps = 0, .is_dynamic = true}; }

  void succeeded();
  // Exit 7 (NU11) when the scale would fall below 1.
  Status overflowed(int64_t step);
};

}  // namespace pare
