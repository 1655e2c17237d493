// prune/select.h: which weights go: the k with the lowest scores by the total order (score, row, column),
// found without sorting. Scores are floats >= 0, finite; -0 counts as +0. Same masks for any thread count.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/core/result.h"
#include "engine/tensor/mask.h"
#include "engine/tensor/tensor.h"
#include "prune/target.h"

namespace pare {

// Where a selection ends: scores below `score` go, and the first `ties` of those equal to it.
struct Cut {
  float score = 0.0f;
  int64_t ties = 0;
  int64_t below = 0;  // how many are below
};

// The cut that removes exactly k of `scores` (k <= size). Radix selection on the bits of the floats, in two
// passes of 16 bits.
Cut find_cut(std::span<const float> scores, int64_t k);

// Scores that come in several pieces, as those of all matrices of a model: every piece twice, in the same
// order.
class CutFinder {
 public:
  CutFinder();
  ~CutFinder();
  void count_upper(std::span<const float> scores);
  void choose_upper(int64_t k);  // after the first pass
  void count_lower(std::span<const float> scores);
  Cut cut() const;  // after the second pass

 private:
  std::vector<int64_t> upper_, lower_;
  int64_t k_ = 0, below_ = 0;
  uint32_t prefix_ = 0;
};

// scores f32 [out, in], contiguous. Kept: everything but the k lowest. `ties`: how many scores equal to the
// cut may still go, counted down; for cuts over several matrices.
Result<Mask> mask_below(const Tensor& scores, const Cut& cut, int64_t* ties);

// Scope "layer": the k lowest of the matrix.
Result<Mask> select_matrix(const Tensor& scores, int64_t k);
// Scope "row": the k lowest of each row.
Result<Mask> select_rows(const Tensor& scores, int64_t k);
// Keeps the n highest of each m neighbours of a row; a last group of width w loses floor((m - n) w / m).
Result<Mask> select_n_of_m(const Tensor& scores, int n, int m);
// Whole blocks by the mean score of their weights: in each row of blocks floor(share * blocks) of them
// (balanced), or over the whole matrix.
Result<Mask> select_blocks(const Tensor& scores, const SparsityPattern& pattern, const Sparsity& share,
                           bool is_balanced);

enum class Scope : uint8_t { row, layer };

// By the target's pattern; the scope is that of unstructured and (row: balanced) block patterns. The mask is
// verified against its pattern.
Result<Mask> select_weights(const Tensor& scores, const PruneTarget& target, Scope scope,
                            std::string_view name);

}  // namespace pare
