// cli/job_finish.h: the end of a job: is the output there already, and the report of the damage.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/job_arguments.h"
#include "cli/job_damage.h"
#include "engine/core/job_folder.h"
#include "evaluate/gate.h"
#include "evaluate/generation_speed.h"

namespace pare::cli {

// The manifest of the output if a resumed job wrote it and died before it could say so (docs/jobs.md);
// nothing when it is still to be written. `planned` is the manifest before any tensor. Exit 2 (CL02) when
// something else has the name and --force was not given; 3 when the output of a job that was published is
// gone or is another one.
Result<std::optional<Manifest>> finished_output(const JobArguments& arguments, const CommonOptions& common,
                                                const JobFolder& folder, const Manifest& planned);

// The same with the checksum that the job committed (empty: none) and a test whether a manifest is of this
// job.
Result<std::optional<Manifest>> finished_output(const JobArguments& arguments, const CommonOptions& common,
                                                const JobFolder& folder, const std::string& checksum,
                                                const std::function<bool(const Manifest&)>& is_own);

// A stop signal between the tensors of a command without a job: only as a step of a recipe, which goes on
// with this step. On its own the first stop signal ends the process.
Error stopped_between_tensors(const std::string& command);

// The command that continues this one, for a shell.
std::string resume_command(const CommonOptions& common);

// Before the work: may <output>.report.json be written at the end? A report that an earlier output left
// behind may be replaced; exit 2 (CL02) for any other file without --force.
Status check_report_target(const JobArguments& arguments);

// The output's options as they hold for this run: a resumed job may find its own output, which the job knows
// by its checksum.
OutputOptions output_of(const JobArguments& arguments);

// Checks the names of output and report and that --report-data can be read, then opens the model: nothing of
// it is touched before. Exit 2, 3, 5.
Result<std::shared_ptr<const WeightSource>> open_job_input(const JobArguments& arguments,
                                                           const CommonOptions& common);

struct FinishedJob {
  std::string command;
  std::shared_ptr<const WeightSource> source;
  Manifest manifest;  // as stored
  uint64_t weight_bytes_before = 0, weight_bytes_after = 0;
  uint64_t output_bytes = 0;  // on disk
  double seconds = 0.0;
  std::optional<uint64_t> spilled_bytes;                               // of jobs that ran activations
  std::optional<int> resumed_at;                                       // block
  CalibrationWindows report_windows;                                   // empty: --report-data, or no report
  std::string report_source = "more windows of the calibration data";  // where they are from, for people
  // A model whose damage is measured as well: the student before it was trained. Null: none.
  std::shared_ptr<const WeightSource> before;
  std::vector<Gate> gates;
  std::chrono::steady_clock::time_point start;
  // Set by describe(): what else belongs into the report file.
  std::function<void(RunReport& report)> complete = [](RunReport&) {};
  bool wants_speed = false;  // measure both models, unless --no-speed
  // Set by report_job():
  std::optional<DamageReport> damage, damage_before;
  std::optional<SpeedComparison> speed;
  std::string speed_note;  // why it was not measured, where it was wanted
};

// Measures the damage where there is something to measure it on, and writes <output>.report.json. `advance`
// as in measure_damage().
Status report_job(const JobArguments& arguments, const CommonOptions& common, FinishedJob& done,
                  const std::function<Status()>& advance);

}  // namespace pare::cli
