// prune/target.h: how much of a matrix goes, and in which pattern.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/core/result.h"
#include "engine/models/architecture.h"
#include "engine/tensor/mask.h"

namespace pare {

// A share of weights as an exact fraction, so that counts do not depend on rounding.
struct Sparsity {
  static constexpr int64_t kWhole = 1000000;
  int64_t millionths = 0;  // 0 .. kWhole

  int64_t count(int64_t weights) const;  // floor(share * weights)
  double share() const { return double(millionths) / double(kWhole); }
  std::string text() const;  // "0.5"
  bool operator==(const Sparsity&) const = default;
  static Sparsity of(double share);  // nearest
  // 0 <= share < 1 with at most six decimals, "0.5" or "50%". Exit 2.
  static Result<Sparsity> parse(std::string_view text);
};

struct PruneTarget {
  SparsityPattern pattern;
  Sparsity sparsity;  // of n_of_m: 1 - n / m

  int64_t removed(int64_t out, int64_t in) const;  // weights, exactly; of blocks: at most
  std::string text() const;                        // "0.5", "2:4", "0.5 block-16x16"
  bool operator==(const PruneTarget&) const = default;
  // "0.5", "2:4", "0.5:block-16x16". Exit 2.
  static Result<PruneTarget> parse(std::string_view text);
};

struct PruneSelection {
  PruneTarget target;
  std::vector<std::string> include;  // patterns of names; empty: all linears inside blocks
  std::vector<std::string> exclude;  // win over include
  // Pattern -> target, or nothing for "keep"; the last one that matches wins over everything else. Also
  // reaches the output head.
  std::vector<std::pair<std::string, std::optional<PruneTarget>>> overrides;
};

// `layers.*.down_proj=0.7`, `...=2:4` or `...=keep`. Exit 2 (CL12).
Result<std::pair<std::string, std::optional<PruneTarget>>> parse_prune_override(const std::string& text);

// Per tensor of `model`, in its order; nothing for tensors that stay as they are. Exit 2 (RC09) for a pattern
// that matches nothing which can be pruned; 4 (RC14) for an N:M pattern whose M does not divide the inputs of
// a matrix, unless `allow_ragged`.
Result<std::vector<std::optional<PruneTarget>>> select_targets(const ModelDescription& model,
                                                               const PruneSelection& selection,
                                                               bool allow_ragged);

}  // namespace pare
