// quantize/allocation.h: which format each part of a model gets, so that the sum of costs is smallest within
// a number of bytes. Pure functions on numbers; where costs come from is not their business. The formulation
// is a knapsack with one choice per unit; exact steps: docs/methods.md.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/core/result.h"
#include "engine/tensor/quant_scheme.h"

namespace pare {

struct AllocationChoice {
  std::optional<QuantScheme> scheme;  // nothing: the unit stays as it is
  uint64_t bytes = 0;                 // of the whole unit in the file, scales and alignment included
  double cost = 0.0;                  // finite; any unit, the same for all units
};

// Tensors that must share a format.
struct AllocationUnit {
  std::string name;
  std::vector<AllocationChoice> choices;  // at least one, in any order
};

// The cheapest mix found for a size: for any budget from `bytes` up to the next point's, `cost` is the sum.
struct AllocationPoint {
  uint64_t bytes = 0;
  double cost = 0.0;
};

struct Allocation {
  std::vector<size_t> choice;  // per unit: index into its choices
  uint64_t bytes = 0;          // sum, <= the budget
  double cost = 0.0;           // sum
  // All budgets: bytes rising, cost falling; the result is the last point within the budget, so a larger
  // budget never has a larger cost.
  std::vector<AllocationPoint> curve;
  bool is_exact = true;  // no mix within the budget has a smaller sum; false: mixes were thinned out
};

// A choice that costs more than one of the same unit with fewer bytes is never taken (a measured cost of that
// kind is noise). Mixes are kept as a frontier of (bytes, cost); beyond 8192 of them the range of sizes is
// cut into 8192 parts and the best of each is kept, together with the mixes along the lower convex hulls (the
// greedy solution, within one step of the optimum of the relaxed problem). Ties go to the smaller unit index:
// it gets the larger format. Exit 2 when even the smallest choices exceed the budget, with that smallest
// size; exit 7 for a cost that is not finite.
Result<Allocation> allocate_bits(std::span<const AllocationUnit> units, uint64_t budget_bytes);

}  // namespace pare
