// prune/structured/unit_gradients.h: what the loss says of whole units, from its gradients over the
// calibration windows.
//
//   taylor   mean over windows n of |sum over P of w g_n|      first order, the slices of P together
//   fisher   sum over P of 1/2 w^2 F,  F = mean over n of g_n^2
//
// P are all slices that are cut with the unit (units.h): of a channel its rows of gate and up with their
// biases and its column of down; of a group of heads also its queries; of a layer or an expert all its
// tensors. Sums in double. Source: Ma et al., "LLM-Pruner" (2023); exact: algorithms.md 5.3, 5.10.
#pragma once

#include <span>
#include <vector>

#include "calibrate/loss_gradients.h"
#include "prune/structured/structure.h"

namespace pare {

inline bool uses_gradients(UnitScore score) {
  return score == UnitScore::taylor || score == UnitScore::fisher;
}

// Kinds of scores: per block, but for `hidden`, which are of the whole model.
enum class UnitSum : uint8_t { channel, query_head, kv_group, expert, layer, hidden };

class UnitGradients final : public GradientSums {
 public:
  // Units of `structures`; the score of each is taylor or fisher.
  UnitGradients(const ModelDescription& model, std::span<const Structure> structures, UnitScore score);

  bool wants(const TensorSpec& spec) const override;
  Status start() override;
  uint64_t size_bytes() const override { return size_ * sizeof(double); }
  void add(const ParameterList& parameters) override;
  std::vector<std::span<std::byte>> state() override;
  Status finish(int64_t windows) override;

  // Scores out of finished values, one per unit; a layer has one. block: ignored for hidden.
  std::vector<double> read(const LossGradients& values, UnitSum kind, int block) const;

 private:
  struct Range {
    size_t begin = 0, count = 0;
  };
  Range range(UnitSum kind, int block) const;
  void add_matrix(const TensorSpec& spec, const Parameter& parameter);
  void add_axis(const TensorSpec& spec, bool is_rows, std::span<const double> sums);

  const ModelDescription& model_;
  std::vector<Structure> structures_;
  UnitScore score_;
  std::vector<Range> ranges_;  // [block * kinds + kind], then hidden
  size_t size_ = 0;
  std::vector<double> window_, sums_;  // of the window at hand, and over all
};

}  // namespace pare
