// cli/quantize_finish.h: the end of `pare quantize`: is the output there already, the report of the damage,
// what is printed, and the gates.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "cli/quantize_damage.h"
#include "cli/quantize_options.h"
#include "cli/quantize_summary.h"
#include "cli/quantize_target.h"
#include "engine/core/job_folder.h"
#include "evaluate/gate.h"

namespace pare::cli {

// The manifest of the output if a resumed job wrote it and died before it could say so (docs/jobs.md);
// nothing when it is still to be written. `planned` is the manifest before any tensor. Exit 2 (CL02) when
// something else has the name and --force was not given; 3 when the output of a job that was published is
// gone or is another one.
Result<std::optional<Manifest>> finished_output(const QuantizeArguments& arguments,
                                                const CommonOptions& common, const JobFolder& folder,
                                                const Manifest& planned);

// The command that continues this one, for a shell.
std::string resume_command(const CommonOptions& common);

// Before the work: may <output>.report.json be written at the end? A report that an earlier output left
// behind may be replaced; exit 2 (CL02) for any other file without --force.
Status check_report_target(const QuantizeArguments& arguments);

struct FinishedRun {
  std::shared_ptr<const WeightSource> source;
  const ModelDescription& model;
  QuantizeOutcome outcome;
  Manifest manifest;  // as stored
  ChosenBits chosen;
  std::vector<std::optional<QuantScheme>> schemes;
  CalibrationWindows report_windows;  // empty: --report-data, or no report
  std::vector<Gate> gates;
  std::chrono::steady_clock::time_point start;
};

// Measures the damage where there is something to measure it on, and writes <output>.report.json. `advance`
// as in measure_damage().
Result<std::optional<DamageReport>> report_run(const QuantizeArguments& arguments,
                                               const CommonOptions& common, FinishedRun& run,
                                               const std::function<Status()>& advance);

// Prints what was done. Exit 9 when a gate holds.
Status conclude_run(const QuantizeArguments& arguments, const QuantizeSettings& settings,
                    const CommonOptions& common, const FinishedRun& run,
                    const std::optional<DamageReport>& damage);

}  // namespace pare::cli
