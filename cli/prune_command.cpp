#include "cli/prune_command.h"

#include <CLI/CLI.hpp>
#include <chrono>

#include "cli/calibration_data.h"
#include "cli/commands.h"
#include "cli/job_finish.h"
#include "cli/prune_calibrated.h"
#include "cli/prune_low_rank.h"
#include "cli/prune_summary.h"
#include "engine/core/progress.h"
#include "engine/core/signals.h"
#include "engine/core/text.h"

namespace pare::cli {
namespace {

// Without data: tensor by tensor from the source to the output.
Result<Exit> run_streamed(const PruneArguments& arguments, const PruneSettings& settings,
                          const CommonOptions& common,
                          const std::shared_ptr<const WeightSource>& shared_source,
                          const ModelDescription& model, const SparsityList& targets, const PrunePlan& plan,
                          const std::vector<Gate>& gates) {
  const WeightSource& source = *shared_source;
  PARE_CHECK(check_memory(common, plan.peak_memory_bytes, "raise --max-memory"));
  if (arguments.dry_run) {
    if (common.json) {
      print_json(prune_json(arguments, settings, source, plan, nullptr));
    } else {
      print_prune_plan(arguments, settings, plan);
      print_line("  weights " + format_bytes(plan.input_bytes) + " -> " + format_bytes(plan.output_bytes) +
                 ", peak memory about " + format_bytes(plan.peak_memory_bytes) +
                 " beyond the program itself; nothing was written (--dry-run)");
    }
    return Exit::ok;
  }
  const auto start = std::chrono::steady_clock::now();
  PARE_TRY(Manifest manifest,
           start_manifest(source, "prune", canonical_options(arguments, settings), common.seed));
  PARE_TRY(const auto sink, open_output_model(source, arguments.output, plan.output_bytes));
  FinishedJob done;
  done.command = "prune";
  done.source = shared_source;
  {
    Progress progress("prune", int64_t(plan.input_bytes >> 20), "MB");
    uint64_t bytes_done = 0;
    PARE_CHECK(
        prune_stream(source, model, targets, settings.stream, *sink, manifest, [&](uint64_t bytes) -> Status {
          progress.advance(int64_t(((bytes_done + bytes) >> 20) - (bytes_done >> 20)));
          bytes_done += bytes;
          if (interrupted()) return stopped_between_tensors("prune");
          return {};
        }));
  }
  done.weight_bytes_before = plan.input_bytes;
  done.weight_bytes_after = sink->bytes_written();
  done.wants_speed = true;
  done.start = start;
  done.report_windows.context = arguments.context > 0 ? arguments.context : default_context(model.config);
  sink->before_publish([&](const Manifest& whole) {
    done.manifest = whole;
    return Status();
  });
  PARE_CHECK(sink->finish(manifest));
  PARE_CHECK(report_job(arguments, common, done, [] { return Status(); }));
  if (common.json) {
    print_json(prune_json(arguments, settings, source, plan, &done));
  } else {
    print_prune_plan(arguments, settings, plan);
    if (arguments.report) print_pruned_matrices(done.manifest);
    print_prune_outcome(plan, done);
  }
  if (done.damage) PARE_CHECK(check_gates(gates, *done.damage, arguments.output.path));
  return Exit::ok;
}

}  // namespace

Result<Exit> run_prune(const PruneArguments& arguments, const CommonOptions& common) {
  PARE_CHECK(start_engine(common));
  if (is_structured(arguments.structured)) {
    StructuredArguments structured = arguments.structured;
    structured.sparsity = arguments.sparsity;
    return run_structured_prune(arguments, structured, common);
  }
  if (!arguments.low_rank.empty()) return run_low_rank(arguments, common);
  PARE_TRY(PruneSettings settings, prune_settings(arguments));
  PARE_TRY(std::vector<Gate> gates, report_gates(arguments));
  PARE_TRY(const auto source, open_job_input(arguments, common));
  PARE_TRY(const ModelDescription model, describe_model(*source));
  PARE_TRY(const SparsityList targets, select_targets(model, settings.selection, arguments.allow_ragged));
  const PrunePlan plan = plan_pruning(*source, model, targets, settings.is_compact);
  PARE_CHECK(check_output_model(*source, output_of(arguments), plan.output_bytes));
  PARE_TRY(settings.prune.device, chosen_device(common));
  if (is_calibrated(arguments, settings))
    return run_calibrated(arguments, settings, common, source, model, targets, std::move(gates));
  return run_streamed(arguments, settings, common, source, model, targets, plan, gates);
}

namespace {

// Options for single weights say nothing about whole units.
Status check_structured_alone(const CLI::App& verb, const StructuredArguments& structured) {
  if (!is_structured(structured)) return {};
  for (const char* option : {"--method", "--taylor-form", "--allocation", "--scheme", "--form"}) {
    if (verb.count(option) > 0)
      return contradiction(option, "is about single weights; whole units are chosen by --importance",
                           "--structure");
  }
  return {};
}

}  // namespace

void add_prune(CLI::App& app, Commands& commands) {
  auto arguments = std::make_shared<PruneArguments>();
  CLI::App* verb = app.add_subcommand("prune", "remove weights, heads, channels or layers");
  add_prune_options(*verb, *arguments);
  verb->add_option("--seed", commands.common().seed, "which windows are drawn")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->type_name("N")
      ->group("Calibration");
  add_common(verb, commands, true);
  verb->footer(
      "Examples:\n"
      "  pare prune model/ --method magnitude --sparsity 0.3 -o model-m30.pare\n"
      "  pare prune model/ --method sparsegpt --sparsity 2:4 --data text.txt --context 512 -o model-24.pare\n"
      "  pare prune model/ --structure mlp --sparsity 0.25 --repair --data text.txt --context 512 -o "
      "smaller/\n"
      "  pare prune model/ --low-rank energy=0.95 --data text.txt --context 512 -o model-thin.pare");
  commands.on(verb, [arguments, verb, &commands]() -> Result<Exit> {
    PARE_CHECK(check_structured_alone(*verb, arguments->structured));
    return run_prune(*arguments, commands.common());
  });
}

}  // namespace pare::cli
