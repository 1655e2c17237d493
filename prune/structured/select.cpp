#include "prune/structured/select.h"

#include <algorithm>

#include "engine/core/assert.h"

namespace pare {

std::vector<int64_t> best_units(std::span<const double> scores, int64_t keep) {
  PARE_ASSERT(keep >= 0 && keep <= int64_t(scores.size()), "[structured] {} of {} units", keep,
              scores.size());
  std::vector<int64_t> order = all_units(int64_t(scores.size()));
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return scores[size_t(a)] > scores[size_t(b)]; });
  order.resize(size_t(keep));
  std::sort(order.begin(), order.end());
  return order;
}

std::vector<int64_t> others(const std::vector<int64_t>& kept, int64_t count) {
  std::vector<int64_t> left;
  size_t next = 0;
  for (int64_t unit = 0; unit < count; ++unit) {
    if (next < kept.size() && kept[next] == unit) {
      ++next;
    } else {
      left.push_back(unit);
    }
  }
  return left;
}

void choose_heads(std::span<const double> group_scores, std::span<const double> query_scores,
                  int64_t kv_heads, int64_t queries_per_group, BlockUnits& units) {
  const int64_t per_group = int64_t(query_scores.size() / group_scores.size());
  units.kv_heads = best_units(group_scores, kv_heads);
  units.query_heads.clear();
  for (const int64_t group : units.kv_heads) {
    const int64_t first = group * per_group;
    for (const int64_t query :
         best_units(query_scores.subspan(size_t(first), size_t(per_group)), queries_per_group))
      units.query_heads.push_back(first + query);
  }
}

std::vector<int64_t> columns_of(const std::vector<int64_t>& units, int64_t width) {
  std::vector<int64_t> columns;
  columns.reserve(units.size() * size_t(width));
  for (const int64_t unit : units)
    for (int64_t i = 0; i < width; ++i) columns.push_back(unit * width + i);
  return columns;
}

}  // namespace pare
