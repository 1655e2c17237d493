#include <CLI/CLI.hpp>
#include <chrono>

#include "cli/calibration_data.h"
#include "cli/commands.h"
#include "cli/job_finish.h"
#include "cli/kv_option.h"
#include "cli/model_argument.h"
#include "cli/quantize_calibrated.h"
#include "cli/quantize_command.h"
#include "cli/quantize_summary.h"
#include "engine/core/file.h"
#include "engine/core/progress.h"
#include "engine/core/signals.h"
#include "engine/core/text.h"
#include "engine/models/model.h"
#include "quantize/stream.h"

namespace pare::cli {
namespace {

// Bytes per second that rounding has been seen to reach on one core; only for the estimate of --dry-run.
constexpr double kPlainBytesPerSecond = 400e6, kClippedBytesPerSecond = 8e6;

void print_dry_run(const QuantizeOptions& options, const QuantizePlan& plan) {
  print_line("  peak memory about " + format_bytes(plan.peak_memory_bytes) + " beyond the program itself");
  const double rate = options.clip_search ? kClippedBytesPerSecond : kPlainBytesPerSecond;
  print_line("  time about " + format_duration(double(plan.input_bytes) / rate) +
             "; nothing was written (--dry-run)");
}

const char* streamed_method(const MethodPlan& plan) {
  switch (plan.rounding) {
    case MethodPlan::Rounding::hqq:
      return "hqq";
    case MethodPlan::Rounding::kmeans:
      return "kmeans";
    default:
      return "rtn";
  }
}

QuantizeOptions streamed_options(const QuantizeSettings& settings) {
  QuantizeOptions options = settings.calibrated.quantize;
  if (settings.calibrated.method.range == MethodPlan::Range::squared) {
    options.clip_search = true;
    options.clip.power = 2.0;
  }
  if (settings.calibrated.activations)
    options.activation = ActivationQuant{.mode = *settings.calibrated.activations,
                                         .symmetric = settings.calibrated.activation_range.is_symmetric};
  return options;
}

// Without data: tensor by tensor from the source to the output.
Result<Exit> run_streamed(const QuantizeArguments& arguments, const QuantizeSettings& settings,
                          const CommonOptions& common,
                          const std::shared_ptr<const WeightSource>& shared_source,
                          const ModelDescription& model,
                          const std::vector<std::optional<QuantScheme>>& schemes, const QuantizePlan& plan,
                          const std::vector<Gate>& gates) {
  const WeightSource& source = *shared_source;
  PARE_TRY(const QuantizeMethod* method, find_quantize_method(streamed_method(settings.calibrated.method)));
  const QuantizeOptions options = streamed_options(settings);
  PARE_CHECK(check_memory(common, plan.peak_memory_bytes, "raise --max-memory"));
  if (arguments.dry_run) {
    if (common.json) {
      print_json(quantize_json(arguments, source, plan, nullptr));
    } else {
      print_quantize_plan(arguments, settings, plan);
      print_dry_run(options, plan);
    }
    return Exit::ok;
  }
  const auto start = std::chrono::steady_clock::now();
  PARE_TRY(Manifest manifest,
           start_manifest(source, "quantize", canonical_options(arguments, settings), common.seed));
  PARE_TRY(const auto sink, open_output_model(source, arguments.output, plan.output_bytes));
  {
    Progress progress("quantize", int64_t(plan.input_bytes >> 20), "MB");
    uint64_t done = 0;
    PARE_CHECK(quantize_stream(source, model, schemes, *method, options, *sink, manifest,
                               [&](uint64_t bytes) -> Status {
                                 progress.advance(int64_t(((done + bytes) >> 20) - (done >> 20)));
                                 done += bytes;
                                 if (interrupted()) return stopped_between_tensors("quantize");
                                 return {};
                               }));
  }
  FinishedJob done;
  done.command = "quantize";
  done.source = shared_source;
  done.weight_bytes_before = plan.input_bytes;
  done.weight_bytes_after = plan.output_bytes;
  done.start = start;
  done.report_windows.context = arguments.context > 0 ? arguments.context : default_context(model.config);
  sink->before_publish([&](const Manifest& whole) {
    done.manifest = whole;
    return Status();
  });
  PARE_CHECK(sink->finish(manifest));
  PARE_CHECK(report_job(arguments, common, done, [] { return Status(); }));
  if (common.json) {
    print_json(quantize_json(arguments, source, plan, &done));
  } else {
    print_quantize_plan(arguments, settings, plan);
    if (done.damage) print_damage(*done.damage);
    if (arguments.report) print_matrices(done.manifest);
    print_quantize_outcome(done);
  }
  if (done.damage) PARE_CHECK(check_gates(gates, *done.damage, arguments.output.path));
  return Exit::ok;
}

}  // namespace

Result<Exit> run_quantize(const QuantizeArguments& arguments, const CommonOptions& common) {
  PARE_CHECK(start_engine(common));
  PARE_TRY(const QuantizeSettings settings, quantize_settings(arguments));
  PARE_TRY(std::vector<Gate> gates, report_gates(arguments));
  PARE_TRY(const auto source, open_job_input(arguments, common));
  PARE_TRY(const ModelDescription model, describe_model(*source));
  PARE_TRY(const auto schemes, select_schemes(model, settings.selection));
  const QuantizePlan plan = plan_quantization(*source, model, schemes);
  PARE_CHECK(check_output_model(*source, output_of(arguments), plan.output_bytes));
  if (const auto kv = asked_kv(arguments.kv); kv && !kv->is_none()) {
    PARE_TRY(const auto fits, Model::open(source, Device::cpu(), kv));  // exit 4 for heads that are too large
    static_cast<void>(fits);
  }
  PARE_TRY(const Device device, chosen_device(common));
  if (is_calibrated(arguments, settings))
    return run_calibrated(arguments, settings, common, source, model, schemes, plan, std::move(gates));
  note_host_work(device, "rounding to nearest, file by file");
  return run_streamed(arguments, settings, common, source, model, schemes, plan, gates);
}

void add_quantize(CLI::App& app, Commands& commands) {
  auto arguments = std::make_shared<QuantizeArguments>();
  CLI::App* verb = app.add_subcommand("quantize", "store weights in 8, 4 or fewer bits");
  add_quantize_options(*verb, *arguments);
  verb->add_option("--seed", commands.common().seed, "which windows are drawn")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->type_name("N")
      ->group("Calibration");
  add_common(verb, commands, true);
  verb->footer(
      "Examples:\n"
      "  pare quantize model/ --scheme int4-g64 --set 'layers.*.down_proj=int8' -o model-int4.pare\n"
      "  pare quantize model/ --scheme int4-g64 --method gptq --data text.txt --context 512 -o "
      "model-gptq.pare");
  commands.on(verb, [arguments, &commands] { return run_quantize(*arguments, commands.common()); });
}

}  // namespace pare::cli
