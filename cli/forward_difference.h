// cli/forward_difference.h: how far two models are apart on a few tokens.
#pragma once

#include <memory>

#include "engine/core/result.h"
#include "engine/models/weight_source.h"
#include "engine/tensor/device.h"

namespace pare::cli {

struct ForwardDifference {
  int64_t tokens = 0;
  double largest = 0.0;        // max |logit - logit|
  double largest_logit = 0.0;  // max |logit| of the first model, to judge it by
};

// Runs both models over the same few tokens, block by block, so that one block of each is in memory at a
// time. They must have the same shape, which is the caller's to see to.
Result<ForwardDifference> forward_difference(const std::shared_ptr<const WeightSource>& first,
                                             const std::shared_ptr<const WeightSource>& second,
                                             Device device);

}  // namespace pare::cli
