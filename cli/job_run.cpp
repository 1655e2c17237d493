#include "cli/job_run.h"

#include <chrono>

#include "cli/backends.h"
#include "cli/model_argument.h"
#include "engine/core/hash.h"
#include "engine/core/memory.h"
#include "engine/core/progress.h"
#include "engine/core/signals.h"
#include "engine/core/text.h"
#include "engine/core/version.h"

namespace pare::cli {
namespace {

using Clock = std::chrono::steady_clock;

// A stop signal that finds a long block is obeyed within this time, giving up the block.
constexpr double kPatienceSeconds = 10.0;

// Notices a stop signal that finds a long block: after a while the block is given up, the last commit stays.
class StopClock {
 public:
  explicit StopClock(const JobFolder& folder) : folder_(folder) {}
  Status check() {
    if (!interrupted()) return {};
    const Clock::time_point now = Clock::now();
    if (!since_) since_ = now;
    if (std::chrono::duration<double>(now - *since_).count() < kPatienceSeconds) return {};
    return folder_.interrupted_error();
  }

 private:
  const JobFolder& folder_;
  std::optional<Clock::time_point> since_;
};

// Everything that decides the bytes of the output (docs/jobs.md). What the user chose comes before what
// follows from it, so that the first difference names the cause.
Json identity_of(const Manifest& manifest, const Json& options, const Json& calibration) {
  Json json = Json::object();
  json["program"] = Json::object();
  json["program"]["version"] = std::string(kVersion);
  json["program"]["build"] = std::string(kBuildId);
  json["command"] = manifest.command;
  json["options"] = options;
  json["inputs"] = manifest.inputs;
  json["seed"] = Json(manifest.seed);
  Json& data = json["calibration"] = Json::object();
  for (const char* key : {"context", "bos"})
    if (const Json* value = calibration.find(key)) data[key] = *value;
  data["hash"] = xxh3_128(calibration.dump_sorted()).hex();
  json["arithmetic"] = manifest.arithmetic;
  return json;
}

// The blocks, then the output.
Result<Manifest> run_to_output(const JobArguments& arguments, const CommonOptions& common,
                               JobCommand& command, JobFolder& folder, const Manifest& planned,
                               FinishedJob& done) {
  PARE_CHECK(command.decide(folder));
  PARE_TRY(std::optional<Manifest> found, finished_output(arguments, common, folder, planned));
  if (found) {
    PARE_CHECK(folder.published());
    return *std::move(found);
  }
  BlockJob& job = command.job();
  BlockJobResult result;
  {
    Progress progress(done.command, int64_t(job.model.config.block_count()), "blocks");
    job.block_done = [&](int) { progress.advance(1); };
    PARE_TRY(result, command.run(folder));
  }
  done.spilled_bytes = result.spilled_bytes;
  if (result.first_block > 0) done.resumed_at = result.first_block;
  PARE_TRY(Manifest stored, command.write(folder, planned));
  PARE_CHECK(folder.published());
  return stored;
}

Result<Exit> run_in_folder(const JobArguments& arguments, const CommonOptions& common, JobCommand& command,
                           JobFolder& folder, Calibration calibration, FinishedJob& done) {
  BlockJob& job = command.job();
  const Json options = command.options();
  PARE_TRY(Manifest manifest, start_manifest(*job.source, done.command, options, common.seed));
  manifest.arithmetic = arithmetic_profile();
  PARE_CHECK(folder.start(identity_of(manifest, options, calibration.description)));
  manifest.options["calibration"] = calibration.description;

  job.windows = std::move(calibration.windows);
  if (calibration.statistics != nullptr) {
    job.saved_statistics = [file = calibration.statistics](int block, Site site, StatisticSet wanted) {
      return saved_site(*file, block, site, wanted);
    };
  }
  StopClock stop(folder);
  job.advance = [&](int64_t) { return stop.check(); };
  auto stored = run_to_output(arguments, common, command, folder, manifest, done);
  if (!stored) {
    // Failed before anything was worth keeping: nothing to continue, and nothing in the way of the next try.
    if (stored.error().exit != Exit::interrupted && !arguments.resume && folder.generation() == 0) {
      PARE_CHECK(folder.remove());
    }
    return stored.error();
  }
  done.manifest = *std::move(stored);
  command.describe(done);
  // What comes now can be had again from the output: a stop signal need not wait.
  PARE_CHECK(report_job(arguments, common, done, [&]() -> Status {
    if (interrupted()) return folder.interrupted_error();
    return {};
  }));
  if (!arguments.keep_work) PARE_CHECK(folder.remove());
  command.print(done);
  if (done.damage) PARE_CHECK(check_gates(done.gates, *done.damage, arguments.output.path));
  return Exit::ok;
}

}  // namespace

Result<Exit> run_job(const JobArguments& arguments, const CommonOptions& common, JobCommand& command,
                     Calibration calibration, std::vector<Gate> gates) {
  const std::string job_path =
      arguments.work_dir.empty() ? job_path_of(arguments.output.path) : arguments.work_dir;
  const JobMode mode = arguments.resume    ? JobMode::resume
                       : arguments.restart ? JobMode::restart
                                           : JobMode::fresh;
  BlockJob& job = command.job();
  PARE_TRY(job.memory_limit, memory_limit(common));
  PARE_TRY(const WalkDevice walk, walk_device(common));
  job.device = walk.device;
  job.device_limit = walk.limit;
  PARE_CHECK(check_memory(common, resident_bytes() + command.peak_memory_bytes(calibration.report.context),
                          "lower --context, or raise --max-memory"));
  if (arguments.dry_run) {
    command.print_plan(calibration.report.context);
    return Exit::ok;
  }
  FinishedJob done;
  done.command = command.name();
  done.source = job.source;
  done.report_windows = calibration.report;
  done.gates = std::move(gates);
  done.start = command.started();
  const JobSignalScope signals;
  PARE_TRY(JobFolder folder, JobFolder::open(job_path, mode));
  // With the lock held: no other job can finish this output after this look.
  if (!arguments.resume)
    PARE_CHECK(check_output_model(*job.source, arguments.output, command.expected_bytes()));
  auto ended = run_in_folder(arguments, common, command, folder, std::move(calibration), done);
  if (!ended && ended.error().exit == Exit::interrupted)
    ended.error().what = "interrupted; to continue: " + resume_command(common);
  return ended;
}

Result<Manifest> write_output(const std::function<Status(WeightSink& sink, Manifest& manifest)>& fill,
                              WeightSink& sink, JobFolder& folder, Manifest manifest) {
  Manifest stored;
  sink.before_publish([&](const Manifest& whole) {
    stored = whole;
    return commit_output(folder, manifest_hash(whole));
  });
  PARE_CHECK(fill(sink, manifest));
  PARE_CHECK(sink.finish(manifest));
  return stored;
}

}  // namespace pare::cli
