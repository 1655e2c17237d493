#include "distill/loss_scale.h"

#include <fmt/format.h>

namespace pare {

void LossScale::succeeded() {
  if (!is_dynamic || ++good_steps < kGoodSteps) return;
  scale *= 2.0;
  good_steps = 0;
}

Status LossScale::overflowed(int64_t step) {
  scale /= 2.0;
  good_steps = 0;
  if (scale >= 1.0) return {};
  return Error{.exit = Exit::numeric,
               .rule = "NU11",
               .path = "training",
               .where = fmt::format("step {}", step),
               .what = "gradients overflow f16 at every scale of the loss; train in bf16",
               .got = fmt::format("scale {}", scale),
               .limit = "1"};
}

}  // namespace pare
