// cli/prune_structured_plan.h: what the words of `pare prune --structure` mean for a model, and how it is
// said.
#pragma once

#include "cli/job_finish.h"
#include "cli/prune_structured.h"
#include "prune/structured/structured_job.h"

namespace pare::cli {

struct StructuredPlan {
  std::vector<Structure> structures;
  TargetRequest target;
  StructuredOptions options;  // sizes before a latency is searched: those of the model
  bool searches_time = false;
  Json keep_corpus;  // counts and hash of the text that keeps its tokens; null without
};

// Exit 2 for words that contradict each other, 3 and 5 for the corpus, 4 for what the family cannot do.
Result<StructuredPlan> plan_structured(const StructuredArguments& arguments, const WeightSource& source,
                                       const ModelDescription& model, bool has_data);

// Options that decide the bytes of the output, defaults filled in; no paths.
Json structured_options_json(const StructuredArguments& arguments, const StructuredPlan& plan);

struct StructuredOutcome {
  ModelShape before, after;
  ModelCost cost_before, cost_after;
  uint64_t bytes_before = 0, bytes_after = 0;  // of the weights
};
StructuredOutcome outcome_of(const WeightSource& source, const ModelDescription& model,
                             const ModelShape& after);

Json structured_json(const JobArguments& job, const StructuredPlan& plan, const StructuredOutcome& outcome,
                     const Json& summary, const FinishedJob* done);
void print_structured(const JobArguments& job, const StructuredPlan& plan, const StructuredOutcome& outcome,
                      const Json& summary, const FinishedJob* done);

}  // namespace pare::cli
