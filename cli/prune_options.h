// cli/prune_options.h: the options of `pare prune`, and what those for single weights mean.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/job_arguments.h"
#include "cli/prune_structured.h"
#include "engine/tensor/quant_scheme.h"
#include "prune/gradient_scores.h"
#include "prune/prune_step.h"
#include "prune/prune_stream.h"
#include "prune/sensitivity.h"

namespace pare::cli {

struct PruneArguments : JobArguments {
  std::string method = "wanda";
  std::string sparsity;                // empty: 0.5 for single weights, not asked for with whole units
  std::string allocation = "uniform";  // uniform, owl, global
  std::string scope;                   // row, layer; empty: of the method
  std::string normalise = "none";      // of a global cut by magnitude
  std::string taylor_form;             // first, per-sample, mixed; empty: per-sample
  double owl_threshold = 5.0, owl_lambda = 0.08;
  std::vector<std::string> include, exclude, overrides;
  double damping = 0.01;
  int64_t block = 128;
  std::string order = "natural";   // act
  std::string calibrate = "site";  // block
  std::string scheme;              // rounds what is kept (sparsegpt)
  std::string form = "auto";       // of matrices in a .pare file: auto, dense
  std::string low_rank;            // a rule of ranks: factors instead of removed weights
  int64_t low_rank_repair = 0;     // rank of the factors beside pruned matrices
  bool allow_ragged = false, allow_empty = false, allow_fallback = false, clamp = false;
  StructuredArguments structured;  // whole units instead (cli/prune_structured.h)
};

// What the words mean, checked (exit 2 or 4).
struct PruneSettings {
  PruneSelection selection;
  PruneOptions prune;
  PruneStreamOptions stream;
  OwlOptions owl;
  std::optional<QuantScheme> scheme;
  std::optional<GradientScore> gradient;  // of taylor and fisher
  bool is_compact = false;                // sparse forms where they are smaller
};
Result<PruneSettings> prune_settings(const PruneArguments& arguments);

// True when activations have to be seen, or the user gave data to see.
bool is_calibrated(const PruneArguments& arguments, const PruneSettings& settings);

// Options that decide the bytes of the output, defaults filled in; no paths.
Json canonical_options(const PruneArguments& arguments, const PruneSettings& settings);

void add_prune_options(CLI::App& verb, PruneArguments& arguments);

}  // namespace pare::cli
