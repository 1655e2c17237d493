#include "cli/quantize_calibrated.h"

#include <chrono>

#include "cli/backends.h"
#include "cli/calibration_data.h"
#include "cli/model_argument.h"
#include "cli/quantize_finish.h"
#include "cli/quantize_target.h"
#include "cli/statistics_file.h"
#include "engine/core/hash.h"
#include "engine/core/memory.h"
#include "engine/core/progress.h"
#include "engine/core/signals.h"
#include "engine/core/text.h"
#include "engine/core/version.h"
#include "quantize/quantize_job.h"

namespace pare::cli {
namespace {

using Clock = std::chrono::steady_clock;

// A stop signal that finds a long block is obeyed within this time, giving up the block.
constexpr double kPatienceSeconds = 10.0;

// What calibrates, and what the damage is measured on: windows drawn after the calibration's, so that no two
// runs that differ in --samples compare on what one of them has seen. Data that has no more windows gives its
// own.
struct Windows {
  CalibrationWindows calibration, report;
  Json description;
};

Result<Windows> load_windows(const QuantizeArguments& arguments, const WeightSource& source,
                             const ModelConfig& config, uint64_t seed) {
  CalibrationDataOptions options{.path = arguments.data,
                                 .samples = arguments.samples,
                                 .context = arguments.context,
                                 .seed = seed,
                                 .bos = arguments.bos,
                                 .chat_template = arguments.chat_template,
                                 .now = std::nullopt,
                                 .parse_special = arguments.parse_special};
  PARE_TRY(CalibrationData data, load_calibration_data(options, source, config));
  Windows windows{.calibration = data.windows, .report = {}, .description = data.to_json()};
  if (arguments.no_report || !arguments.report_data.empty()) {
    windows.report = {
        .ids = {}, .samples = 0, .context = data.windows.context, .token_hash = {}, .text_hash = {}};
    return windows;
  }
  const int64_t context = data.windows.context;
  const int64_t wanted = std::max<int64_t>(1, arguments.report_tokens / context);
  options.samples = arguments.samples + wanted;
  options.context = context;
  const auto more = data.kind == "tokens" || arguments.data == "-"
                        ? Result<CalibrationData>(std::move(data))
                        : load_calibration_data(options, source, config);
  if (!more) return more.error();
  const int64_t samples = more->windows.samples, first = std::max<int64_t>(0, samples - wanted);
  windows.report.context = context;
  windows.report.samples = samples - first;
  windows.report.ids.assign(more->windows.ids.begin() + first * context, more->windows.ids.end());
  return windows;
}

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

// Where activations come from: data to run, or a file of statistics.
struct Calibration {
  Windows windows;
  std::shared_ptr<StatisticsFile> statistics;
  Json description;  // for manifest and identity
};

Result<Calibration> load_calibration(const QuantizeArguments& arguments, const WeightSource& source,
                                     const ModelConfig& config, uint64_t seed) {
  Calibration calibration;
  if (!arguments.data.empty()) {
    PARE_TRY(calibration.windows, load_windows(arguments, source, config, seed));
    calibration.description = calibration.windows.description;
    return calibration;
  }
  PARE_TRY(const std::string hash, model_hash(source));
  PARE_TRY(StatisticsFile file, open_statistics_of(arguments.statistics, hash, {}));
  calibration.statistics = std::make_shared<StatisticsFile>(std::move(file));
  const StatisticsOrigin& origin = calibration.statistics->header().origin;
  Json& json = calibration.description = Json::object();
  json["kind"] = "statistics";
  json["hash"] = origin.token_hash;
  json["text_hash"] = origin.text_hash;
  json["seed"] = Json(origin.seed);
  json["samples"] = Json(origin.samples);
  json["context"] = Json(origin.context);
  calibration.windows.report.context = origin.context;
  return calibration;
}

// Loads a site of the file; exit 3 when it lacks what the method needs.
Result<SiteStatistics> saved_site(const StatisticsFile& file, int block, Site site, StatisticSet wanted) {
  for (const SiteEntry& entry : file.header().sites) {
    if (entry.block != block || entry.site != site) continue;
    for (const Statistic statistic : {Statistic::second_moment, Statistic::absmean, Statistic::absmax,
                                      Statistic::square, Statistic::range, Statistic::histogram}) {
      if (!wanted.has(statistic) || file.header().collected.has(statistic)) continue;
      return Error{.exit = Exit::malformed,
                   .rule = "IM04",
                   .path = file.path(),
                   .where = "statistics",
                   .what = "lacks what the method needs; add it to --statistics of pare calibrate",
                   .got = {},
                   .limit = std::string(statistic_name(statistic)),
                   .limit_label = "need"};
    }
    PARE_TRY(SiteStatistics statistics, file.load(entry, /*writable=*/true));
    // Not to be scaled in vain, or refused because it cannot be.
    if (!wanted.has(Statistic::range)) statistics.has_range = false;
    if (!wanted.has(Statistic::histogram)) statistics.histogram.reset();
    return statistics;
  }
  return Error{.exit = Exit::malformed,
               .rule = "IM04",
               .path = file.path(),
               .where = "block " + std::to_string(block) + " " + std::string(site_name(site)),
               .what = "no statistics of this site",
               .got = {},
               .limit = {}};
}

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

// The output, from the objects of the job. Its checksum is committed before it appears.
Result<Manifest> write_output(const QuantizeArguments& arguments, const QuantizeJob& job, JobFolder& folder,
                              Manifest manifest, uint64_t bytes) {
  PARE_TRY(const auto sink, open_output_model(*job.source, arguments.output, bytes));
  Manifest stored;
  sink->before_publish([&](const Manifest& whole) {
    stored = whole;
    return commit_output(folder, manifest_hash(whole));
  });
  PARE_CHECK(write_compressed(job, folder, *sink, manifest));
  PARE_CHECK(sink->finish(manifest));
  return stored;
}

// The blocks, then the output.
Result<Manifest> run_job(const QuantizeArguments& arguments, const CommonOptions& common, QuantizeJob& job,
                         JobFolder& folder, const Manifest& planned, FinishedRun& run) {
  if (has_target(arguments)) {
    PARE_TRY(run.chosen, choose_bits(arguments, job, folder, job.schemes));
    const uint64_t peak = run.outcome.plan.peak_memory_bytes;
    run.outcome.plan = plan_quantization(*job.source, job.model, job.schemes);
    run.outcome.plan.peak_memory_bytes = peak;
  }
  PARE_TRY(std::optional<Manifest> found, finished_output(arguments, common, folder, planned));
  if (found) {
    PARE_CHECK(folder.published());
    return *std::move(found);
  }
  QuantizeJobResult result;
  {
    Progress progress("quantize", int64_t(job.model.config.block_count()), "blocks");
    job.block_done = [&](int) { progress.advance(1); };
    PARE_TRY(result, compress_blocks(job, folder));
  }
  run.outcome.spilled_bytes = result.spilled_bytes;
  if (result.first_block > 0) run.outcome.resumed_at = result.first_block;
  PARE_TRY(Manifest stored, write_output(arguments, job, folder, planned, run.outcome.plan.output_bytes));
  PARE_CHECK(folder.published());
  return stored;
}

Result<Exit> run_folder_job(const QuantizeArguments& arguments, const QuantizeSettings& settings,
                            const CommonOptions& common, JobFolder& folder, Calibration calibration,
                            uint64_t memory_limit, FinishedRun& run) {
  const WeightSource& source = *run.source;
  const Json options = canonical_options(arguments, settings);
  PARE_TRY(Manifest manifest, start_manifest(source, "quantize", options, common.seed));
  manifest.arithmetic = arithmetic_profile();
  PARE_CHECK(folder.start(identity_of(manifest, options, calibration.description)));
  manifest.options["calibration"] = calibration.description;

  QuantizeJob job{.source = run.source,
                  .model = run.model,
                  .schemes = run.schemes,
                  .options = settings.calibrated,
                  .windows = std::move(calibration.windows.calibration),
                  .saved_statistics = {},
                  .memory_limit = memory_limit};
  if (calibration.statistics != nullptr) {
    job.saved_statistics = [file = calibration.statistics](int block, Site site, StatisticSet wanted) {
      return saved_site(*file, block, site, wanted);
    };
  }
  StopClock stop(folder);
  job.advance = [&](int64_t) { return stop.check(); };
  auto stored = run_job(arguments, common, job, folder, manifest, run);
  if (!stored) {
    // A target that cannot be met: there is nothing to continue.
    if (stored.error().exit == Exit::usage && !arguments.resume && folder.generation() == 0) {
      PARE_CHECK(folder.remove());
    }
    return stored.error();
  }
  run.manifest = *std::move(stored);
  run.schemes = job.schemes;
  // What comes now can be had again from the output: a stop signal need not wait.
  PARE_TRY(const auto damage, report_run(arguments, common, run, [&]() -> Status {
             if (interrupted()) return folder.interrupted_error();
             return {};
           }));
  if (!arguments.keep_work) PARE_CHECK(folder.remove());
  PARE_CHECK(conclude_run(arguments, settings, common, run, damage));
  return Exit::ok;
}

}  // namespace

Result<Exit> run_calibrated(const QuantizeArguments& arguments, const QuantizeSettings& settings,
                            const CommonOptions& common, std::shared_ptr<const WeightSource> source,
                            const ModelDescription& model,
                            const std::vector<std::optional<QuantScheme>>& schemes, QuantizePlan plan,
                            std::vector<Gate> gates) {
  const auto start = Clock::now();
  const std::string job_path =
      arguments.work_dir.empty() ? job_path_of(arguments.output.path) : arguments.work_dir;
  const JobMode mode = arguments.resume    ? JobMode::resume
                       : arguments.restart ? JobMode::restart
                                           : JobMode::fresh;
  PARE_TRY(const uint64_t limit, memory_limit(common));
  PARE_TRY(Calibration calibration, load_calibration(arguments, *source, model.config, common.seed));
  PARE_TRY(const auto planned, Model::open(source, Device::cpu()));
  const int64_t context = calibration.windows.report.context;
  plan.peak_memory_bytes = pipeline_floor_bytes(*planned, context, settings.calibrated.match_original);
  PARE_CHECK(check_memory(common, resident_bytes() + plan.peak_memory_bytes,
                          "lower --context, or raise --max-memory"));
  FinishedRun run{.source = source,
                  .model = model,
                  .outcome = {},
                  .manifest = {},
                  .chosen = {},
                  .schemes = schemes,
                  .report_windows = calibration.windows.report,
                  .gates = std::move(gates),
                  .start = start};
  run.outcome.plan = plan;
  if (arguments.dry_run) {
    if (common.json) {
      print_json(quantize_json(arguments, *source, run.outcome, Manifest()));
    } else {
      print_quantize_plan(arguments, settings, plan);
      print_line("  peak memory at least " + format_bytes(plan.peak_memory_bytes) +
                 " beyond the program itself; nothing was written (--dry-run)");
    }
    return Exit::ok;
  }
  const JobSignalScope signals;
  PARE_TRY(JobFolder folder, JobFolder::open(job_path, mode));
  // With the lock held: no other job can finish this output after this look.
  if (!arguments.resume) PARE_CHECK(check_output_model(*source, arguments.output, plan.output_bytes));
  auto ended = run_folder_job(arguments, settings, common, folder, std::move(calibration), limit, run);
  if (!ended && ended.error().exit == Exit::interrupted)
    ended.error().what = "interrupted; to continue: " + resume_command(common);
  return ended;
}

}  // namespace pare::cli
