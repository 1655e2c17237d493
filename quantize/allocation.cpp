#include "quantize/allocation.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "engine/core/assert.h"
#include "engine/core/text.h"

namespace pare {
namespace {

constexpr size_t kMaxMixes = 8192;

// One choice of a unit that no other choice beats in both bytes and cost.
struct Option {
  size_t index;  // in the unit's choices
  uint64_t bytes;
  double cost;
};

// The options of a unit, bytes rising and cost falling.
std::vector<Option> frontier_of(const AllocationUnit& unit) {
  std::vector<Option> sorted;
  for (size_t i = 0; i < unit.choices.size(); ++i)
    sorted.push_back({i, unit.choices[i].bytes, unit.choices[i].cost});
  std::stable_sort(sorted.begin(), sorted.end(), [](const Option& a, const Option& b) {
    return a.bytes != b.bytes ? a.bytes < b.bytes : a.cost < b.cost;
  });
  std::vector<Option> kept;
  for (const Option& option : sorted)
    if (kept.empty() || option.cost < kept.back().cost) kept.push_back(option);
  return kept;
}

// A mix of choices for the units so far.
struct Mix {
  uint64_t bytes;
  double cost;
  uint32_t parent;  // mix of the units before
  uint32_t option;  // of the last unit
};

// Leaves out mixes that another one beats; with too many left, keeps the cheapest of each part of the range
// and the smallest of all.
bool prune(std::vector<Mix>& mixes) {
  std::sort(mixes.begin(), mixes.end(), [](const Mix& a, const Mix& b) {
    if (a.bytes != b.bytes) return a.bytes < b.bytes;
    if (a.cost != b.cost) return a.cost < b.cost;
    return a.option < b.option;  // an earlier unit has the larger format then
  });
  size_t count = 0;
  for (const Mix& mix : mixes)
    if (count == 0 || mix.cost < mixes[count - 1].cost) mixes[count++] = mix;
  mixes.resize(count);
  if (count <= kMaxMixes) return true;
  const uint64_t smallest = mixes.front().bytes, span = mixes.back().bytes - smallest;
  const uint64_t width = span / kMaxMixes + 1;
  size_t kept = 1;
  uint64_t part = 0;
  for (size_t i = 1; i < count; ++i) {
    const uint64_t mine = (mixes[i].bytes - smallest) / width;
    // Costs fall, so the last mix of a part is its cheapest.
    if (kept > 1 && mine == part) --kept;
    part = mine;
    mixes[kept++] = mixes[i];
  }
  mixes.resize(kept);
  return false;
}

// A step along the lower convex hull of a unit.
struct HullStep {
  size_t unit, number;
  size_t option;  // after the step
  double saving_per_byte;
};

std::vector<size_t> lower_hull(const std::vector<Option>& options) {
  std::vector<size_t> hull;
  const auto slope = [&](size_t a, size_t b) {
    return (options[a].cost - options[b].cost) / double(options[b].bytes - options[a].bytes);
  };
  for (size_t i = 0; i < options.size(); ++i) {
    while (hull.size() >= 2 && slope(hull[hull.size() - 2], hull.back()) <= slope(hull.back(), i))
      hull.pop_back();
    hull.push_back(i);
  }
  return hull;
}

std::vector<HullStep> hull_steps(const std::vector<std::vector<Option>>& units) {
  std::vector<HullStep> steps;
  for (size_t u = 0; u < units.size(); ++u) {
    const std::vector<size_t> hull = lower_hull(units[u]);
    for (size_t k = 1; k < hull.size(); ++k) {
      const Option &from = units[u][hull[k - 1]], &to = units[u][hull[k]];
      steps.push_back({u, k, hull[k], (from.cost - to.cost) / double(to.bytes - from.bytes)});
    }
  }
  std::sort(steps.begin(), steps.end(), [](const HullStep& a, const HullStep& b) {
    if (a.saving_per_byte != b.saving_per_byte) return a.saving_per_byte > b.saving_per_byte;
    return a.unit != b.unit ? a.unit < b.unit : a.number < b.number;
  });
  return steps;
}

// The mixes of all units: the frontier, and how to get back from it.
class Mixes {
 public:
  explicit Mixes(const std::vector<std::vector<Option>>& units) : units_(units) {
    last_.push_back({0, 0.0, 0, 0});
    for (const std::vector<Option>& options : units_) {
      std::vector<Mix> next;
      next.reserve(last_.size() * options.size());
      for (size_t m = 0; m < last_.size(); ++m)
        for (size_t o = 0; o < options.size(); ++o)
          next.push_back(
              {last_[m].bytes + options[o].bytes, last_[m].cost + options[o].cost, uint32_t(m), uint32_t(o)});
      is_exact_ = prune(next) && is_exact_;
      std::vector<Step> steps;
      steps.reserve(next.size());
      for (const Mix& mix : next) steps.push_back({mix.parent, mix.option});
      steps_.push_back(std::move(steps));
      last_ = std::move(next);
    }
  }

  const std::vector<Mix>& frontier() const { return last_; }
  bool is_exact() const { return is_exact_; }

  // Options of the mix that is number `index` on the frontier.
  std::vector<size_t> options(size_t index) const {
    std::vector<size_t> chosen(units_.size());
    for (size_t u = units_.size(); u-- > 0;) {
      chosen[u] = steps_[u][index].option;
      index = steps_[u][index].parent;
    }
    return chosen;
  }

 private:
  struct Step {
    uint32_t parent, option;
  };
  const std::vector<std::vector<Option>>& units_;
  std::vector<Mix> last_;
  std::vector<std::vector<Step>> steps_;
  bool is_exact_ = true;
};

// A point of the curve and where it comes from.
struct Candidate {
  AllocationPoint point;
  bool from_hull;
  size_t index;  // on the frontier, or the number of hull steps taken
};

std::vector<Candidate> candidates(const std::vector<std::vector<Option>>& units, const Mixes& mixes,
                                  const std::vector<HullStep>& steps) {
  std::vector<Candidate> all;
  for (size_t i = 0; i < mixes.frontier().size(); ++i)
    all.push_back({{mixes.frontier()[i].bytes, mixes.frontier()[i].cost}, false, i});
  if (!mixes.is_exact()) {
    std::vector<size_t> chosen(units.size(), 0);
    for (size_t taken = 0; taken <= steps.size(); ++taken) {
      if (taken > 0) chosen[steps[taken - 1].unit] = steps[taken - 1].option;
      AllocationPoint point;
      for (size_t u = 0; u < units.size(); ++u) {
        point.bytes += units[u][chosen[u]].bytes;
        point.cost += units[u][chosen[u]].cost;
      }
      all.push_back({point, true, taken});
    }
  }
  std::stable_sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) {
    return a.point.bytes != b.point.bytes ? a.point.bytes < b.point.bytes : a.point.cost < b.point.cost;
  });
  std::vector<Candidate> kept;
  for (const Candidate& candidate : all)
    if (kept.empty() || candidate.point.cost < kept.back().point.cost) kept.push_back(candidate);
  return kept;
}

Status check_costs(std::span<const AllocationUnit> units) {
  for (const AllocationUnit& unit : units) {
    PARE_ASSERT(!unit.choices.empty(), "[allocation] {} has no choices", unit.name);
    for (const AllocationChoice& choice : unit.choices) {
      if (std::isfinite(choice.cost)) continue;
      return Error{.exit = Exit::numeric,
                   .rule = "NU14",
                   .path = {},
                   .where = quote(unit.name),
                   .what = "cost of a format is not finite",
                   .got = choice.scheme ? choice.scheme->text() : "keep",
                   .limit = {}};
    }
  }
  return {};
}

}  // namespace

Result<Allocation> allocate_bits(std::span<const AllocationUnit> units, uint64_t budget_bytes) {
  PARE_CHECK(check_costs(units));
  std::vector<std::vector<Option>> options;
  uint64_t smallest = 0;
  for (const AllocationUnit& unit : units) {
    options.push_back(frontier_of(unit));
    smallest += options.back().front().bytes;
  }
  if (smallest > budget_bytes) {
    return Error{.exit = Exit::usage,
                 .rule = "CL12",
                 .path = {},
                 .where = {},
                 .what = "target size is below the smallest that the formats allow",
                 .got = std::to_string(budget_bytes) + " bytes",
                 .limit = std::to_string(smallest) + " bytes",
                 .limit_label = "need"};
  }
  const Mixes mixes(options);
  const std::vector<HullStep> steps = hull_steps(options);
  const std::vector<Candidate> curve = candidates(options, mixes, steps);
  const auto above = std::find_if(curve.begin(), curve.end(),
                                  [&](const Candidate& c) { return c.point.bytes > budget_bytes; });
  PARE_ASSERT(above != curve.begin(), "[allocation] no mix within {} bytes", budget_bytes);
  const Candidate& best = *std::prev(above);

  std::vector<size_t> chosen(units.size(), 0);
  if (best.from_hull) {
    for (size_t i = 0; i < best.index; ++i) chosen[steps[i].unit] = steps[i].option;
  } else {
    chosen = mixes.options(best.index);
  }
  Allocation allocation;
  allocation.is_exact = mixes.is_exact();
  allocation.bytes = best.point.bytes;
  allocation.cost = best.point.cost;
  for (size_t u = 0; u < units.size(); ++u) allocation.choice.push_back(options[u][chosen[u]].index);
  for (const Candidate& candidate : curve) allocation.curve.push_back(candidate.point);
  return allocation;
}

}  // namespace pare
