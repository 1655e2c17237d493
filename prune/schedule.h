// prune/schedule.h: how sparse a model is at a step of its training while it is pruned.
#pragma once

#include <cstdint>

#include "prune/target.h"

namespace pare {

// s(t) = s_f + (s_i - s_f) (1 - (t - t0) / (n d))^3 at t = t0, t0 + d, ..., t0 + n d; between those steps the
// value of the last one. Source: Zhu and Gupta, "To prune, or not to prune" (2017).
struct CubicSchedule {
  Sparsity initial, final;
  int64_t first_step = 0;  // t0
  int64_t interval = 1;    // d >= 1
  int64_t intervals = 1;   // n >= 1

  Sparsity at(int64_t step) const;
  // True at the steps where masks are computed anew.
  bool changes_at(int64_t step) const;
};

}  // namespace pare
