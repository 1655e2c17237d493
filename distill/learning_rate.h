// distill/learning_rate.h: the learning rate of each optimizer step (docs/methods.md, training).
//
//   t < W              lr (t + 1) / W                                          warm-up, any shape
//   constant           lr
//   linear             lr_min + (lr - lr_min) (1 - u)          u = (t - W) / (T - W)
//   cosine             lr_min + (lr - lr_min) (1 + cos(pi u)) / 2
//   warmup_stable_decay (WSD)   lr until step T - D, then lr_min + (lr - lr_min) (1 - sqrt(v)),
//                               v = (t - (T - D)) / D; Source: Haegele et al., "Scaling laws and
//                               compute-optimal training beyond fixed training durations" (2024)
//
// A pure function of the step: a resumed run asks for step t and gets what the uninterrupted run got.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/core/json.h"
#include "engine/core/result.h"

namespace pare {

enum class LearningRateShape { constant, linear, cosine, warmup_stable_decay };

struct LearningRateSchedule {
  LearningRateShape shape = LearningRateShape::cosine;
  double peak = 1e-4;       // > 0
  double minimum = 0.0;     // [0, peak]: what linear, cosine and WSD go down to
  int64_t warmup = 0;       // W, steps; [0, T]
  int64_t steps = 1;        // T >= 1; later steps keep the value of step T (constant: the peak)
  int64_t decay_steps = 0;  // D of WSD; [0, T - W]; 0: a tenth of T, at least one step

  // Exit 2 (CL06) naming the field that lies outside its range.
  Status validate() const;

  // Of optimizer step t >= 0.
  double at(int64_t step) const;

  // Members in fixed order, for identities and manifests.
  Json to_json() const;
};

std::string_view learning_rate_shape_name(LearningRateShape shape);  // "constant", "linear", "cosine", "wsd"
// Exit 2 (CL06) listing the names.
Result<LearningRateShape> learning_rate_shape_from_name(std::string_view name);

}  // namespace pare
