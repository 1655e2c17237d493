#include "cli/job_finish.h"

#include <algorithm>

#include "calibrate/block_job.h"
#include "cli/backends.h"
#include "cli/model_argument.h"
#include "engine/core/hash.h"
#include "engine/core/memory.h"
#include "engine/core/parallel.h"
#include "engine/core/text.h"
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
                                                const std::string& checksum,
                                                const std::function<bool(const Manifest&)>& is_own) {
  const auto report = verify_model(path);
  if (!report || !report->faults.empty()) return std::optional<Manifest>();
  const auto source = open_source(path, common);
  if (!source || (*source)->manifest() == nullptr) return std::optional<Manifest>();
  const Manifest& found = *(*source)->manifest();
  const bool is_found = checksum.empty() ? is_own(found) : manifest_hash(found) == checksum;
  return is_found ? std::optional<Manifest>(found) : std::nullopt;
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

Result<std::optional<Manifest>> finished_output(const JobArguments& arguments, const CommonOptions& common,
                                                const JobFolder& folder, const Manifest& planned) {
  std::string checksum;
  if (folder.resumed()) {
    PARE_TRY(checksum, job_output(folder));
  }
  return finished_output(arguments, common, folder, checksum, [&](const Manifest& found) {
    return plan_of(found).dump_sorted() == plan_of(planned).dump_sorted();
  });
}

Result<std::optional<Manifest>> finished_output(const JobArguments& arguments, const CommonOptions& common,
                                                const JobFolder& folder, const std::string& checksum,
                                                const std::function<bool(const Manifest&)>& is_own) {
  const std::string& path = arguments.output.path;
  if (path_exists(path)) {
    if (folder.was_published() || !checksum.empty()) {
      PARE_TRY(auto found, read_own_output(path, common, checksum, is_own));
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

Error stopped_between_tensors(const std::string& command) {
  return Error{.exit = Exit::interrupted,
               .rule = {},
               .path = "pare " + command,
               .where = {},
               .what = "interrupted",
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

Status check_report_target(const JobArguments& arguments) {
  const std::string path = run_report_path(arguments.output.path);
  const bool is_report = path_exists(path) && read_run_report(arguments.output.path).has_value();
  return check_output(path, {.force = arguments.output.force || arguments.resume || is_report});
}

OutputOptions output_of(const JobArguments& arguments) {
  OutputOptions output = arguments.output;
  output.force = output.force || arguments.resume;
  return output;
}

Result<std::shared_ptr<const WeightSource>> open_job_input(const JobArguments& arguments,
                                                           const CommonOptions& common) {
  PARE_CHECK(check_output(arguments.output.path, {.force = output_of(arguments).force}));
  PARE_CHECK(check_report_target(arguments));
  if (!arguments.report_data.empty() && arguments.report_data != "-") {
    PARE_TRY(const InputFile readable, InputFile::open(arguments.report_data));
    static_cast<void>(readable);
  }
  return open_source(arguments.model, common);
}

namespace {

// Both models, in turns. Models that do not fit into the memory ceiling together with their caches are not
// measured, and the report says so.
Status measure_speeds(const JobArguments& arguments, const CommonOptions& common, FinishedJob& done,
                      const std::function<Status()>& advance) {
  PARE_TRY(const auto compressed, open_source(arguments.output.path, common));
  SpeedOptions options;
  options.advance = advance;
  PARE_TRY(options.device, chosen_device(common));
  PARE_TRY(const uint64_t limit, memory_limit(common, options.device));
  PARE_TRY(const uint64_t first, speed_memory(done.source, options));
  PARE_TRY(const uint64_t second, speed_memory(compressed, options));
  const uint64_t need = (options.device.is_host() ? resident_bytes() : 0) + first + second;
  if (need > limit) {
    done.speed_note =
        "both models together take " + format_bytes(need) + ", the memory ceiling is " + format_bytes(limit);
    return {};
  }
  PARE_TRY(done.speed, compare_speed(done.source, compressed, options));
  return {};
}

}  // namespace

Status report_job(const JobArguments& arguments, const CommonOptions& common, FinishedJob& done,
                  const std::function<Status()>& advance) {
  if (!arguments.no_report && (!arguments.report_data.empty() || done.report_windows.samples > 0)) {
    PARE_TRY(const auto output, open_source(arguments.output.path, common));
    PARE_TRY(done.damage, measure_damage(arguments, common, done.source, output, done.report_windows,
                                         done.report_source, advance));
    if (done.before != nullptr) {
      PARE_TRY(done.damage_before, measure_damage(arguments, common, done.source, done.before,
                                                  done.report_windows, done.report_source, advance));
    }
  }
  if (done.wants_speed && !arguments.no_speed) PARE_CHECK(measure_speeds(arguments, common, done, advance));
  done.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - done.start).count();
  PARE_TRY(done.output_bytes, bytes_on_disk(arguments.output.path));
  RunReport report;
  report.command = done.command;
  report.command_line = common.command_line;
  report.manifest_hash = manifest_hash(done.manifest);
  report.seconds = done.seconds;
  report.peak_resident_bytes = peak_resident_bytes();
  report.peak_device_bytes = peak_device_bytes();
  report.threads = thread_count();
  report.cpu_profile = done.manifest.arithmetic;
  report.resumes = arguments.resume ? 1 : 0;
  report.weight_bytes_before = done.weight_bytes_before;
  report.weight_bytes_after = done.weight_bytes_after;
  report.output_bytes = done.output_bytes;
  done.complete(report);
  report.damage = done.damage;
  report.speed = done.speed;
  return write_run_report(arguments.output.path, report, /*force=*/true);
}

}  // namespace pare::cli
