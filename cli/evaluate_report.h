// cli/evaluate_report.h: `pare evaluate --report`: the damage report of a model that exists already, written
// where `pare report` looks for it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/evaluation_input.h"
#include "engine/models/weight_source.h"
#include "evaluate/run_report.h"

namespace pare::cli {

// The report that the damage will be added to, before any work: the one beside `model` when it is of these
// weights, else a new one. Exit 4 (RP07) for a model without a manifest. Without `force`: exit 2 (CL02) when
// the one beside it holds measured damage or is of other weights; 3, 4, 5, 6 when it cannot be read.
Result<RunReport> report_to_extend(const WeightSource& model, const WeightSource& reference,
                                   const CommonOptions& common, bool force);

// Walks both models over the windows of `input` and writes the report. Returns the path of the file.
Result<std::string> write_damage_report(RunReport report, std::shared_ptr<const WeightSource> model,
                                        std::shared_ptr<const WeightSource> reference,
                                        const Tokenizer& tokenizer, const EvaluationInput& input,
                                        const std::string& source, const CommonOptions& common);

}  // namespace pare::cli
