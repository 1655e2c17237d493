// prune/structured/layer_choice.h: which layers a model can do without.
#pragma once

#include <vector>

#include "calibrate/block_pipeline.h"

namespace pare {

// Block influence of every layer: 1 - mean over tokens of the cosine between what enters and what leaves it.
// Source: Men et al., "ShortGPT" (2024). Exit 3, 5, 6; 7 (NU06) for states that are not finite.
Result<std::vector<double>> block_influence(std::shared_ptr<const WeightSource> source,
                                            CalibrationWindows windows, PipelineOptions options);

// Layers that may go: all but the first `keep_first` and the last `keep_last`.
std::vector<int64_t> layer_candidates(int64_t layers, int64_t keep_first, int64_t keep_last);

// The `keep` layers left when the candidates with the lowest scores go; among equals the later one goes
// first. Exit 2 when there are too few candidates, naming the options.
Result<std::vector<int64_t>> keep_layers(const std::vector<double>& scores,
                                         const std::vector<int64_t>& candidates, int64_t keep);

struct LossRemoval {
  std::vector<int64_t> kept;
  double loss_before = 0.0;                         // mean negative log-likelihood per token, nats
  std::vector<std::pair<int64_t, double>> removed;  // in order, with the loss then
};
// Removes the candidate whose absence costs least, measures all others again, and so on until `keep` are
// left. The whole model is in memory. Ties: the later layer goes. Exit 3, 4, 5, 6; 7 (NU16) for a loss that
// is not finite.
Result<LossRemoval> remove_layers_by_loss(std::shared_ptr<const WeightSource> source,
                                          const CalibrationWindows& windows, std::vector<int64_t> candidates,
                                          int64_t keep, const std::function<Status(int64_t tokens)>& advance,
                                          Device device = Device::cpu());

}  // namespace pare
