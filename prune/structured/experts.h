// prune/structured/experts.h: which experts of a mixture can go.
//
// Every layer loses the same number; what is left is renumbered, and the router with it. The softmax over the
// experts that are left renormalises itself, so that a model without an expert is the model whose router
// never chooses it.
#pragma once

#include <memory>
#include <vector>

#include "calibrate/block_pipeline.h"
#include "prune/structured/structure.h"
#include "prune/structured/units.h"

namespace pare {

// Of the experts of one layer; all 0 experts for a layer that is no mixture.
struct ExpertScores {
  std::vector<double> scores;
  std::vector<int64_t> tokens;  // that chose the expert; empty for the weight score
};

// activation (REAP): mean over the tokens that chose the expert of share * |output|_2; an expert that no
// token chose scores 0. weight: L2 norm of everything that is cut with the expert, its row of the router
// included. `windows` are not used by weight. Source: Lasby et al., "REAP the Experts" (2025). Exit 4 for
// other scores, 3, 5, 6; 7 (NU06) for outputs that are not finite.
Result<std::vector<ExpertScores>> score_experts(std::shared_ptr<const WeightSource> source,
                                                const ModelDescription& model, UnitScore score,
                                                CalibrationWindows windows, PipelineOptions options);

// The `keep` experts of each layer with the highest scores, ascending.
std::vector<std::vector<int64_t>> keep_experts(const std::vector<ExpertScores>& scores, int64_t keep);

// [{scores, tokens, unused: [experts without tokens]}] of each layer, for reports.
Json expert_summary(const std::vector<ExpertScores>& scores);

}  // namespace pare
