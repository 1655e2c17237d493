// cli/prune_summary.h: what `pare prune` says about a run, as text and as JSON.
#pragma once

#include "cli/job_finish.h"
#include "cli/prune_options.h"
#include "engine/core/manifest.h"

namespace pare::cli {

// Sparsity of what was pruned, and of all linears, from the entries of a manifest.
struct ReachedSparsity {
  int64_t matrices = 0, weights = 0, kept = 0;
  double share() const { return weights == 0 ? 0.0 : 1.0 - double(kept) / double(weights); }
};
ReachedSparsity reached_sparsity(const Manifest& manifest);

// done: null for a plan.
Json prune_json(const PruneArguments& arguments, const PruneSettings& settings, const WeightSource& source,
                const PrunePlan& plan, const FinishedJob* done);
void print_prune_plan(const PruneArguments& arguments, const PruneSettings& settings, const PrunePlan& plan);
// A line per pruned matrix: sparsity asked and reached, error, method, form.
void print_pruned_matrices(const Manifest& manifest);
// Sparsity, size, speed, damage, time, and the last line with its counts.
void print_prune_outcome(const PrunePlan& plan, const FinishedJob& done);

}  // namespace pare::cli
