// prune/structured/structured_job.h: structured pruning of a whole model as a job that can be stopped and
// resumed.
//
//   decide_units   layers, hidden dimensions, experts and vocabulary, one choice each, committed together
//   run_structured heads and MLP channels block by block, on the model that those choices leave
//   structured_model, write_structured: the result as a source, and into a sink
//
// Each structure is chosen on what the ones before leave: layers, hidden, experts, heads, mlp, vocabulary. A
// mixture of experts keeps its hidden size, heads and channels (check_structures()).
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "calibrate/block_job.h"
#include "prune/structured/step.h"
#include "prune/structured/targets.h"

namespace pare {

struct StructuredOptions {
  ModelShape sizes;  // that are left; the vocabulary is what choose_vocabulary() gives
  UnitScore layer_score = UnitScore::influence, hidden_score = UnitScore::activation;
  UnitScore head_score = UnitScore::activation, mlp_score = UnitScore::activation;
  UnitScore expert_score = UnitScore::activation;
  bool repair = false, match_original = false, correct_norms = true;
  double damping = 0.01;
  int64_t keep_first = 4, keep_last = 2;               // layers that are never removed
  std::optional<std::vector<int64_t>> dropped_layers;  // by hand, instead of a score
  bool cut_vocabulary = false;
  std::vector<uint64_t> token_counts;  // of the corpus that must keep its tokens, by id
  uint64_t min_count = 1;
  int64_t multiple = 64;          // of the vocabulary
  LossGradientOptions gradients;  // of the run that taylor and fisher take
};

struct StructuredJob : BlockJob {
  StructuredOptions options;
};

// True when activations have to be seen (windows or saved statistics).
bool needs_data(const StructuredOptions& options, const ModelConfig& config);

// What is chosen by gradients of the loss: taylor or fisher, the same for all; empty: nothing is. These
// scores are of the model as it came, from one run over the windows before anything is chosen.
std::vector<Structure> chosen_by_gradients(const StructuredOptions& options, const ModelConfig& config);
// Beyond what is resident, for that run; 0 without one. Exit 3, 4.
Result<uint64_t> gradient_bytes(const StructuredJob& job, int64_t context);

// Makes and commits the choices for the whole model, or finds them in a resumed job. Weights are checked
// first (exit 7 NU01, NU02). Sets job.options.sizes to what a resumed job had. Exit 2, 3, 4, 5, 6, 7, 75.
Status decide_units(StructuredJob& job, JobFolder& folder);

Result<BlockJobResult> run_structured(const StructuredJob& job, JobFolder& folder);

// After run_structured(). Views of the job's objects and of the job's source.
Result<std::shared_ptr<const WeightSource>> structured_model(const StructuredJob& job,
                                                             const JobFolder& folder);

// What was chosen, for reports: {sizes, layers: [dropped], layer_scores, hidden ..., blocks: [{scores}]}.
Result<Json> structured_summary(const StructuredJob& job, const JobFolder& folder);

// Writes `model` (of structured_model()) in its order; records each tensor in `manifest.tensors`. The record
// of the embedding holds the ids that were kept of a cut vocabulary.
Status write_structured(const StructuredJob& job, const JobFolder& folder, const WeightSource& model,
                        WeightSink& sink, Manifest& manifest);

}  // namespace pare
