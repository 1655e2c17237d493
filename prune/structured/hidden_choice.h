// prune/structured/hidden_choice.h: which dimensions of the residual stream stay, one choice for the whole
// model.
#pragma once

#include <memory>
#include <vector>

#include "calibrate/block_job.h"
#include "prune/structured/structure.h"

namespace pare {

struct HiddenScores {
  std::vector<double> scores;  // [hidden], summed over all norms
  // Per norm in the model's order (two per block, then the last one): sum over tokens of the squared
  // normalised value, without the gain, and the tokens. Empty without data.
  std::vector<std::vector<double>> energy;
  int64_t tokens = 0;
};

// Walks `job.source` once (not for `weight`), with the job's windows or saved statistics; the final norm
// takes part when activations are run. Exit 4 for scores that dimensions do not have.
Result<HiddenScores> score_hidden(const BlockJob& job, UnitScore score, double damping,
                                  PipelineOptions options);

// rho of every norm: what its gain is multiplied by, since the mean square is then taken over the kept
// dimensions alone: sqrt((sum over kept of x^2 / D') / (sum of x^2 / D)) over all tokens. Empty without
// energies.
std::vector<double> norm_corrections(const HiddenScores& hidden, const std::vector<int64_t>& kept);

// Multiplies the gains of the model's norms, in their order, by `factors`.
Status scale_norms(EditedSource& source, const ModelDescription& model, const std::vector<double>& factors);

}  // namespace pare
