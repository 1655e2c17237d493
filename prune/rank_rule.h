// prune/rank_rule.h: how much of each matrix `--low-rank` keeps.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "calibrate/low_rank.h"

namespace pare {

struct RankRule {
  enum class Kind : uint8_t {
    energy,  // the smallest rank that keeps `value` of the output's energy
    rank,    // `rank` everywhere
    error,   // the smallest rank with a relative output error of at most `value`
    budget,  // `value` of the parameters of all matrices, shared out by gain
  };
  Kind kind = Kind::energy;
  double value = 0.99;
  int64_t rank = 0;

  // "energy=0.95", "rank=64", "error=0.05", "budget=0.7". Exit 2 with the forms.
  static Result<RankRule> parse(std::string_view text);
  std::string text() const;
  // Not for budgets, which concern all matrices.
  int64_t rank_of(const OutputComponents& components) const;
};

}  // namespace pare
