#include "prune/gradient_job.h"

#include <utility>

#include "engine/core/assert.h"
#include "prune/prune_stream.h"

namespace pare {
namespace {

std::vector<std::string> names_of(const ModelDescription& model, const SparsityList& targets) {
  std::vector<std::string> names;
  for (size_t i = 0; i < targets.size(); ++i)
    if (targets[i]) names.push_back(model.tensors[i].name);
  return names;
}

}  // namespace

GradientJob::GradientJob(const ModelDescription& model, const SparsityList& targets, GradientScore score)
    : score_(score), model_(model), sums_(model, names_of(model, targets), moments_of(score)) {}

Result<uint64_t> GradientJob::planned_bytes(const std::shared_ptr<const WeightSource>& source,
                                            int64_t context) const {
  return loss_gradient_bytes(source, model_, context, sums_);
}

Status GradientJob::measure(const BlockJob& job, const LossGradientOptions& options, JobFolder& folder) {
  // The sums are given back with this copy; what is finished is read from the folder.
  WeightGradients sums = sums_;
  PARE_TRY(values_, measure_loss_gradients(job, options, sums, folder));
  return {};
}

Result<Tensor> GradientJob::scores(const TensorSpec& spec, const Tensor& weight) const {
  PARE_ASSERT(values_.values != nullptr, "[gradients] scores of {} before measure()", spec.name);
  std::vector<Tensor> moments;
  for (const GradientMoment moment : moments_of(score_)) {
    PARE_TRY(Tensor values, sums_.read(values_, spec.name, moment));
    moments.push_back(std::move(values));
  }
  return gradient_scores(score_, weight, moments);
}

Result<std::vector<int64_t>> GradientJob::counts(const WeightSource& source, const ModelDescription& model,
                                                 const SparsityList& targets) const {
  return global_counts(model, targets, [&](size_t i) -> Result<Tensor> {
    const TensorSpec& spec = model.tensors[i];
    PARE_TRY(const Tensor weight, float_values(source, spec));
    source.release(spec.name);
    return scores(spec, weight);
  });
}

}  // namespace pare
