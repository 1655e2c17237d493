// prune/structured/targets.h: from what was asked (a share, parameters, a time, sizes) to the sizes of the
// model that is left. Pure numbers; nothing is read but the config.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "prune/structured/shape.h"
#include "prune/structured/structure.h"

namespace pare {

// Seconds that one token takes in a linear of this shape, on the machine at hand.
using LinearTime = std::function<Result<double>(int64_t out, int64_t in)>;

struct TargetRequest {
  std::vector<Structure> structures;
  // One of these, or sizes; with none of them every structure stays as it is.
  std::optional<double> sparsity;     // share of the units of each structure, exact to a millionth
  std::optional<int64_t> parameters;  // at most
  std::optional<double> latency;      // at most this share of the time of one token
  std::optional<int64_t> hidden, intermediate, layers, heads, kv_heads, experts;
  HeadUnits head_units = HeadUnits::groups;
  int64_t multiple = 64;  // hidden and intermediate sizes that are not asked for by number
};

// floor(share * count), the share rounded to a millionth.
int64_t units_removed(double share, int64_t count);

// The multiple of `multiple` nearest to `size`, or `before`, whichever is nearer; the larger one of two.
// Never 0.
int64_t snapped(int64_t size, int64_t before, int64_t multiple);

// The sizes that are left (the vocabulary is not decided here). `time` is asked only for a latency.
//   exit 2: sizes that do not fit each other or the model, a share that removes nothing, a target beyond
//   reach exit 7 (NU15): nothing would be left
Result<ModelShape> plan_shape(const Architecture& family, const ModelConfig& config,
                              const TargetRequest& request, const LinearTime& time);

// Sum of the linears' times of one token, in seconds; attention, norms and sampling are left out.
Result<double> token_time(const Architecture& family, const ModelConfig& config, const LinearTime& time);

}  // namespace pare
