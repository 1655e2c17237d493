#include "cli/quantize_calibrated.h"

#include <chrono>

#include "cli/backends.h"
#include "cli/model_argument.h"
#include "cli/text_data.h"
#include "engine/core/memory.h"
#include "engine/core/progress.h"
#include "engine/core/signals.h"
#include "engine/core/text.h"
#include "engine/core/version.h"
#include "engine/tokenizer/token_windows.h"
#include "quantize/quantize_job.h"

namespace pare::cli {
namespace {

using Clock = std::chrono::steady_clock;

// A stop signal that finds a long block is obeyed within this time, giving up the block.
constexpr double kPatienceSeconds = 10.0;

int64_t default_context(const ModelConfig& config) {
  constexpr int64_t kDefault = 2048;
  return config.max_positions > 0 ? std::min(kDefault, config.max_positions) : kDefault;
}

Result<CalibrationWindows> load_windows(const QuantizeArguments& arguments, const WeightSource& source,
                                        const ModelConfig& config, uint64_t seed) {
  PARE_TRY(const auto tokenizer, load_tokenizer(source));
  PARE_TRY(const TextData text, read_text_data(arguments.data));
  std::vector<std::string_view> documents(text.documents.begin(), text.documents.end());
  PARE_TRY(const TokenStream stream, encode_documents(*tokenizer, documents));
  CalibrationWindows windows;
  windows.context = arguments.context > 0 ? arguments.context : default_context(config);
  windows.token_hash = stream.token_hash;
  windows.text_hash = stream.text_hash;
  const std::vector<TokenWindow> drawn =
      random_windows(int64_t(stream.ids.size()), windows.context, arguments.samples, seed);
  if (drawn.empty())
    return Error{.exit = Exit::malformed,
                 .rule = "DT07",
                 .path = arguments.data,
                 .where = "tokens",
                 .what = "fewer than one window; lower --context",
                 .got = std::to_string(stream.ids.size()),
                 .limit = std::to_string(windows.context),
                 .limit_label = "need"};
  for (const TokenWindow& window : drawn) {
    const std::vector<int32_t> ids = window_ids(stream, window);
    windows.ids.insert(windows.ids.end(), ids.begin(), ids.end());
  }
  windows.samples = int64_t(drawn.size());
  return windows;
}

// Everything that decides the bytes of the output (docs/jobs.md).
Json identity_of(const Manifest& manifest, const CalibrationWindows& windows) {
  Json json = Json::object();
  json["program"] = Json::object();
  json["program"]["version"] = std::string(kVersion);
  json["program"]["build"] = std::string(kBuildId);
  json["command"] = manifest.command;
  json["options"] = manifest.options;
  json["inputs"] = manifest.inputs;
  Json& calibration = json["calibration"];
  calibration = Json::object();
  calibration["hash"] = windows.token_hash;
  calibration["text"] = windows.text_hash;
  calibration["samples"] = Json(windows.samples);
  calibration["context"] = Json(windows.context);
  json["seed"] = Json(manifest.seed);
  json["arithmetic"] = manifest.arithmetic;
  return json;
}

// Progress in tokens over all passes of all blocks; also notices a stop signal that cannot wait.
class JobProgress {
 public:
  JobProgress(const JobFolder& folder, int blocks)
      : folder_(folder), progress_("quantize", blocks, "blocks") {}
  void block_done() { progress_.advance(1); }
  Status advance() {
    if (!interrupted()) return {};
    const Clock::time_point now = Clock::now();
    if (!since_) since_ = now;
    if (std::chrono::duration<double>(now - *since_).count() < kPatienceSeconds) return {};
    return folder_.interrupted_error();
  }

 private:
  const JobFolder& folder_;
  Progress progress_;
  std::optional<Clock::time_point> since_;
};

}  // namespace

Result<Exit> run_calibrated(const QuantizeArguments& arguments, const QuantizeSettings& settings,
                            const CommonOptions& common, std::shared_ptr<const WeightSource> source,
                            const ModelDescription& model,
                            const std::vector<std::optional<QuantScheme>>& schemes, QuantizePlan plan) {
  const auto start = Clock::now();
  const std::string job_path =
      arguments.work_dir.empty() ? arguments.output.path + ".pare-job" : arguments.work_dir;
  const JobMode mode = arguments.resume    ? JobMode::resume
                       : arguments.restart ? JobMode::restart
                                           : JobMode::fresh;
  PARE_TRY(const uint64_t limit, memory_limit(common));
  PARE_TRY(CalibrationWindows windows, load_windows(arguments, *source, model.config, common.seed));
  PARE_TRY(const auto planned, Model::open(source, Device::cpu()));
  plan.peak_memory_bytes =
      pipeline_floor_bytes(*planned, windows.context, settings.calibrated.match_original);
  PARE_CHECK(check_memory(common, resident_bytes() + plan.peak_memory_bytes,
                          "lower --context, or raise --max-memory"));
  if (arguments.dry_run) {
    QuantizeOutcome outcome;
    outcome.plan = plan;
    if (common.json) {
      print_json(quantize_json(arguments, *source, outcome, Manifest()));
    } else {
      print_quantize_plan(arguments, settings, plan);
      print_line("  peak memory at least " + format_bytes(plan.peak_memory_bytes) +
                 " beyond the program itself; nothing was written (--dry-run)");
    }
    return Exit::ok;
  }

  const JobSignalScope signals;
  PARE_TRY(JobFolder folder, JobFolder::open(job_path, mode));
  PARE_TRY(Manifest manifest,
           start_manifest(*source, "quantize", canonical_options(arguments, settings), common.seed));
  manifest.arithmetic = arithmetic_profile();
  manifest.options["context"] = Json(windows.context);
  Json calibration = Json::object();
  calibration["token_hash"] = windows.token_hash;
  calibration["text_hash"] = windows.text_hash;
  calibration["tokens"] = Json(windows.samples * windows.context);
  manifest.options["calibration"] = std::move(calibration);
  PARE_CHECK(folder.start(identity_of(manifest, windows)));

  QuantizeJob job{.source = source,
                  .model = model,
                  .schemes = schemes,
                  .options = settings.calibrated,
                  .windows = std::move(windows),
                  .memory_limit = limit};
  QuantizeJobResult result;
  {
    JobProgress progress(folder, int(model.config.block_count()));
    job.block_done = [&](int) { progress.block_done(); };
    job.advance = [&](int64_t) { return progress.advance(); };
    PARE_TRY(result, compress_blocks(job, folder));
  }
  PARE_TRY(const auto sink, open_output_model(*source, arguments.output, plan.output_bytes));
  PARE_CHECK(write_compressed(job, folder, *sink, manifest));
  PARE_CHECK(sink->finish(manifest));
  PARE_CHECK(folder.published());
  if (!arguments.keep_work) PARE_CHECK(folder.remove());

  QuantizeOutcome outcome;
  outcome.plan = plan;
  outcome.spilled_bytes = result.spilled_bytes;
  if (result.first_block > 0) outcome.resumed_at = result.first_block;
  outcome.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  PARE_TRY(outcome.output_bytes, bytes_on_disk(arguments.output.path));
  if (common.json) {
    print_json(quantize_json(arguments, *source, outcome, manifest));
  } else {
    print_quantize_plan(arguments, settings, plan);
    print_quantize_outcome(outcome, manifest);
  }
  return Exit::ok;
}

}  // namespace pare::cli
