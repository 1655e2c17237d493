// cli/prune_structured.h: `pare prune --structure ...`: its options, its plan, and its run as a job.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/job_arguments.h"

namespace pare::cli {

struct StructuredArguments {
  std::string structure;   // "mlp,heads"; empty with sizes: what the sizes are of
  std::string sparsity;    // as the command reads it; empty: not asked for
  std::string importance;  // empty: influence for layers, activation (with data) or weight for the others
  std::string params, latency;
  int64_t hidden = 0, intermediate = 0, layers = 0, heads = 0, kv_heads = 0, experts = 0;  // 0: not asked for
  std::string head_units = "groups";
  int64_t multiple = 64;
  bool repair = false, match_original = false, keep_norms = false;
  double damping = 0.01;
  int64_t keep_first = -1, keep_last = -1;  // -1: 4 and 2
  std::vector<int64_t> drop_layers;
  std::string keep_corpus;
  int64_t min_count = 1;
};

// All but --sparsity, which the command shares.
void add_structured_options(CLI::App& verb, StructuredArguments& arguments);

// True when a structure or a size is asked for.
bool is_structured(const StructuredArguments& arguments);

// The whole run; the engine is started before. Exit 9 when a gate holds.
Result<Exit> run_structured_prune(const JobArguments& job, const StructuredArguments& arguments,
                                  const CommonOptions& common);

}  // namespace pare::cli
