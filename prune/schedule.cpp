#include "prune/schedule.h"

#include <algorithm>

namespace pare {

Sparsity CubicSchedule::at(int64_t step) const {
  if (step < first_step) return initial;
  const int64_t done = std::min((step - first_step) / interval, intervals);
  const double rest = 1.0 - double(done) / double(intervals);
  return Sparsity::of(final.share() + (initial.share() - final.share()) * rest * rest * rest);
}

bool CubicSchedule::changes_at(int64_t step) const {
  const int64_t since = step - first_step;
  return since >= 0 && since <= interval * intervals && since % interval == 0;
}

}  // namespace pare
