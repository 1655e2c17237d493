// prune/structured/importance.h: the score of every unit at the input of a linear.
//
// A unit is `width` neighbouring channels of the site (1 for an MLP channel, head_dim for a head). Formulas:
// docs/methods.md, "Structured pruning".
#pragma once

#include <span>
#include <vector>

#include "calibrate/statistics.h"
#include "calibrate/step.h"
#include "prune/structured/structure.h"
#include "prune/structured/units.h"

namespace pare {

// What a score has to see at the site; nothing for those that do not come from activations.
StatisticSet statistics_for(UnitScore score);

// consumers: f32 [out, channels], all linears that read the site. damping: share of the mean diagonal of the
// second moment. Scores are at least 0; exit 7 (NU08, NU09) when the second moment cannot be factored, with
// `where`. Asserts that the score is one of a site.
Result<std::vector<double>> unit_scores(UnitScore score, const SiteStatistics& statistics,
                                        std::span<const Tensor> consumers, int64_t width, double damping,
                                        const std::string& where);

// Sum of squares of everything that is cut with each unit of a kind, over the tensors of `block` (-1: of all
// blocks and tables), [units].
Result<std::vector<double>> squared_norms(const WeightSource& source, const ModelDescription& model,
                                          int block, UnitKind kind);

}  // namespace pare
