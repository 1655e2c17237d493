// prune/gradient_job.h: the gradient scores of the matrices that lose weights: measured once on the unchanged
// model as the first part of a job, kept in its folder, read matrix by matrix when blocks are pruned.
#pragma once

#include <memory>
#include <vector>

#include "prune/gradient_scores.h"
#include "prune/sensitivity.h"

namespace pare {

class GradientJob {
 public:
  // Of the tensors of `model` that have a target.
  GradientJob(const ModelDescription& model, const SparsityList& targets, GradientScore score);

  // Beyond what is resident, for measure(). Exit 3, 4.
  Result<uint64_t> planned_bytes(const std::shared_ptr<const WeightSource>& source, int64_t context) const;
  // Runs the windows, or finds in the folder what a job has measured before (loss_gradients.h).
  Status measure(const BlockJob& job, const LossGradientOptions& options, JobFolder& folder);

  // After measure(): scores of a matrix with these values, f32 [out, in].
  Result<Tensor> scores(const TensorSpec& spec, const Tensor& weight) const;
  // What one cut over all matrices takes from each tensor (prune_stream.h), in the order of `model`.
  Result<std::vector<int64_t>> counts(const WeightSource& source, const ModelDescription& model,
                                      const SparsityList& targets) const;
  double loss() const { return values_.loss; }  // mean over the windows, nats per token

 private:
  GradientScore score_;
  ModelDescription model_;
  WeightGradients sums_;
  LossGradients values_;
};

}  // namespace pare
