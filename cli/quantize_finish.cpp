#include "cli/quantize_finish.h"

#include <algorithm>

#include "cli/model_argument.h"
#include "engine/core/hash.h"
#include "engine/core/memory.h"
#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "evaluate/damage_json.h"
#include "formats/verify.h"

namespace pare::cli {
namespace {

// Everything that is known before the first tensor.
Json plan_of(const Manifest& manifest) {
  Manifest plan = manifest;
  plan.tensors.clear();
  plan.files = Json::array();
  return plan.to_json();
}

// Whole, and of this job: by its checksum where one was committed, else by what it says of itself. (A folder
// whose removal was interrupted has lost its commits.)
Result<std::optional<Manifest>> read_own_output(const std::string& path, const CommonOptions& common,
                                                const std::string& checksum, const Manifest& planned) {
  const auto report = verify_model(path);
  if (!report || !report->faults.empty()) return std::optional<Manifest>();
  const auto source = open_source(path, common);
  if (!source || (*source)->manifest() == nullptr) return std::optional<Manifest>();
  const Manifest& found = *(*source)->manifest();
  const bool is_own = checksum.empty() ? plan_of(found).dump_sorted() == plan_of(planned).dump_sorted()
                                       : manifest_hash(found) == checksum;
  return is_own ? std::optional<Manifest>(found) : std::nullopt;
}

std::string shell_word(const std::string& word) {
  const bool is_plain = !word.empty() && std::all_of(word.begin(), word.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("-_./=+:,@%").find(c) != std::string_view::npos;
  });
  if (is_plain) return word;
  std::string quoted = "'";
  for (const char c : word) {
    if (c == '\'') {
      quoted += "'\\''";
    } else {
      quoted += c;
    }
  }
  return quoted + "'";
}

}  // namespace

Result<std::optional<Manifest>> finished_output(const QuantizeArguments& arguments,
                                                const CommonOptions& common, const JobFolder& folder,
                                                const Manifest& planned) {
  const std::string& path = arguments.output.path;
  std::string checksum;
  if (folder.resumed()) {
    PARE_TRY(checksum, job_output(folder));
  }
  if (path_exists(path)) {
    if (folder.was_published() || !checksum.empty()) {
      PARE_TRY(auto found, read_own_output(path, common, checksum, planned));
      if (found) return found;
    }
    if (!folder.was_published())
      PARE_CHECK(check_output(path, {.force = arguments.output.force}));  // CL02 unless --force
  }
  if (!folder.was_published()) return std::optional<Manifest>();
  return Error{.exit = Exit::malformed,
               .rule = {},
               .path = path,
               .where = {},
               .what = path_exists(path) ? "not what the finished job wrote; --restart makes it again"
                                         : "gone since the job finished; --restart makes it again",
               .got = {},
               .limit = {}};
}

std::string resume_command(const CommonOptions& common) {
  std::string line = "pare";
  bool has_resume = false;
  for (const std::string& word : common.command_line) {
    if (word == "--restart") continue;
    has_resume = has_resume || word == "--resume";
    line.append(" ").append(shell_word(word));
  }
  return has_resume ? line : line + " --resume";
}

Status check_report_target(const QuantizeArguments& arguments) {
  const std::string path = run_report_path(arguments.output.path);
  const bool is_report = path_exists(path) && read_run_report(arguments.output.path).has_value();
  return check_output(path, {.force = arguments.output.force || arguments.resume || is_report});
}

Result<std::optional<DamageReport>> report_run(const QuantizeArguments& arguments,
                                               const CommonOptions& common, FinishedRun& run,
                                               const std::function<Status()>& advance) {
  std::optional<DamageReport> damage;
  if (!arguments.no_report && (!arguments.report_data.empty() || run.report_windows.samples > 0)) {
    PARE_TRY(damage, measure_damage(arguments, common, run.source, run.report_windows, advance));
  }
  QuantizeOutcome& outcome = run.outcome;
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - run.start).count();
  PARE_TRY(outcome.output_bytes, bytes_on_disk(arguments.output.path));
  RunReport report;
  report.command = "quantize";
  report.command_line = common.command_line;
  report.manifest_hash = manifest_hash(run.manifest);
  report.seconds = outcome.seconds;
  report.peak_resident_bytes = peak_resident_bytes();
  report.threads = thread_count();
  report.cpu_profile = run.manifest.arithmetic;
  report.resumes = arguments.resume ? 1 : 0;
  report.weight_bytes_before = outcome.plan.input_bytes;
  report.weight_bytes_after = outcome.plan.output_bytes;
  report.output_bytes = outcome.output_bytes;
  report.curve = run.chosen.curve;
  report.curve_unit = run.chosen.unit;
  if (!run.chosen.curve.empty()) report.extra["predicted"] = run.chosen.predicted;
  report.damage = damage;
  PARE_CHECK(write_run_report(arguments.output.path, report, /*force=*/true));
  return damage;
}

Status conclude_run(const QuantizeArguments& arguments, const QuantizeSettings& settings,
                    const CommonOptions& common, const FinishedRun& run,
                    const std::optional<DamageReport>& damage) {
  if (common.json) {
    Json json = quantize_json(arguments, *run.source, run.outcome, run.manifest);
    if (damage) json["damage"] = to_json(*damage);
    print_json(json);
  } else {
    print_quantize_plan(arguments, settings, run.outcome.plan);
    if (has_target(arguments)) print_chosen_bits(run.chosen, run.model, run.schemes);
    if (damage) print_damage(*damage);
    if (arguments.report) print_matrices(run.manifest);
    print_quantize_outcome(run.outcome, run.manifest);
  }
  if (damage) PARE_CHECK(check_gates(run.gates, *damage, arguments.output.path));
  return {};
}

}  // namespace pare::cli
