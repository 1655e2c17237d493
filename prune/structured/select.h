// prune/structured/select.h: which units stay, from their scores.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "prune/structured/units.h"

namespace pare {

// The `keep` units with the highest scores, ascending. Among equal scores the larger index goes first.
std::vector<int64_t> best_units(std::span<const double> scores, int64_t keep);

// The units of [0, count) that are not in `kept` (ascending).
std::vector<int64_t> others(const std::vector<int64_t>& kept, int64_t count);

// Heads under shared keys and values: first whole groups by `group_scores` [kv_heads], then in each kept
// group the best `queries_per_group` by `query_scores` [heads]. `units` gets query_heads and kv_heads.
void choose_heads(std::span<const double> group_scores, std::span<const double> query_scores,
                  int64_t kv_heads, int64_t queries_per_group, BlockUnits& units);

// Columns of a consumer that belong to units of `width` columns each.
std::vector<int64_t> columns_of(const std::vector<int64_t>& units, int64_t width);

}  // namespace pare
