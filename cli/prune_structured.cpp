#include "cli/prune_structured.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "cli/job_run.h"
#include "cli/model_argument.h"
#include "cli/prune_structured_plan.h"
#include "engine/core/progress.h"
#include "evaluate/linear_time.h"

namespace pare::cli {
namespace {

class StructuredCommand final : public JobCommand {
 public:
  StructuredCommand(const JobArguments& arguments, const StructuredArguments& structured,
                    const CommonOptions& common, StructuredPlan plan, StructuredJob job)
      : arguments_(arguments),
        structured_(structured),
        common_(common),
        plan_(std::move(plan)),
        job_(std::move(job)) {
    outcome_ = outcome_of(*job_.source, job_.model, job_.options.sizes);
  }

  std::string name() const override { return "prune"; }
  Json options() const override { return structured_options_json(structured_, plan_); }
  BlockJob& job() override { return job_; }
  uint64_t expected_bytes() const override { return outcome_.bytes_after; }
  uint64_t peak_memory_bytes(int64_t context) const override {
    if (!needs_data(job_.options, job_.model.config)) return 0;
    const auto planned = Model::open(job_.source, Device::cpu());
    if (!planned) return 0;  // opened again, with its error, when the work begins
    const bool two = job_.options.match_original || job_.options.sizes.hidden < job_.model.config.hidden_size;
    const uint64_t blocks = pipeline_floor_bytes(**planned, context, two && job_.options.repair);
    const auto gradients = gradient_bytes(job_, context);
    return gradients ? std::max(blocks, *gradients) : blocks;
  }
  void print_plan(int64_t context) const override {
    static_cast<void>(context);
    say(nullptr);
  }

  Status decide(JobFolder& folder) override {
    PARE_TRY(const Json decided, job_decision(folder));
    if (plan_.searches_time && decided.is_null()) {
      LinearTimer timer({});
      PARE_TRY(job_.options.sizes,
               plan_shape(*job_.model.architecture, job_.model.config, plan_.target,
                          [&](int64_t out, int64_t in) { return timer.measure(out, in); }));
    }
    if (needs_data(job_.options, job_.model.config) && job_.windows.samples == 0 && !job_.saved_statistics) {
      return contradiction("--importance", "activations have to be seen; give --data, or --importance weight",
                           "no --data");
    }
    std::optional<Progress> progress;
    int64_t shown = 0;
    job_.options.gradients.window_done = [&](int64_t windows) {
      if (!progress) progress.emplace("gradients", job_.windows.samples, "windows");
      progress->advance(windows - shown);
      shown = windows;
    };
    PARE_CHECK(decide_units(job_, folder));
    job_.options.gradients = {};
    outcome_ = outcome_of(*job_.source, job_.model, job_.options.sizes);
    return {};
  }
  Result<BlockJobResult> run(JobFolder& folder) override { return run_structured(job_, folder); }
  Result<Manifest> write(JobFolder& folder, Manifest manifest) override {
    PARE_TRY(const auto model, structured_model(job_, folder));
    outcome_.bytes_after = stored_bytes(*model);
    PARE_TRY(summary_, structured_summary(job_, folder));
    PARE_TRY(const auto sink, open_output_model(*model, arguments_.output, outcome_.bytes_after));
    return write_output(
        [&](WeightSink& out, Manifest& records) {
          return write_structured(job_, folder, *model, out, records);
        },
        *sink, folder, std::move(manifest));
  }

  void describe(FinishedJob& done) override {
    done.weight_bytes_before = outcome_.bytes_before;
    done.weight_bytes_after = outcome_.bytes_after;
    done.wants_speed = true;
    done.complete = [this](RunReport& report) {
      report.extra["structured"] = structured_json(arguments_, plan_, outcome_, summary_, nullptr);
      report.extra["units"] = summary_;
    };
  }
  void print(const FinishedJob& done) const override { say(&done); }

 private:
  void say(const FinishedJob* done) const {
    if (common_.json) {
      print_json(structured_json(arguments_, plan_, outcome_, summary_, done));
    } else {
      print_structured(arguments_, plan_, outcome_, summary_, done);
    }
  }

  const JobArguments& arguments_;
  const StructuredArguments& structured_;
  const CommonOptions& common_;
  StructuredPlan plan_;
  StructuredJob job_;
  StructuredOutcome outcome_;
  Json summary_ = Json::object();
};

}  // namespace

Result<Exit> run_structured_prune(const JobArguments& job, const StructuredArguments& arguments,
                                  const CommonOptions& common) {
  PARE_CHECK(check_job_arguments(job));
  PARE_TRY(std::vector<Gate> gates, report_gates(job));
  PARE_TRY(const auto source, open_job_input(job, common));
  PARE_TRY(const ModelDescription model, describe_model(*source));
  const bool has_data = !job.data.empty() || !job.statistics.empty();
  PARE_TRY(StructuredPlan plan, plan_structured(arguments, *source, model, has_data));
  const bool by_gradients = !chosen_by_gradients(plan.options, model.config).empty();
  if (by_gradients && job.data.empty())
    return contradiction("--importance", "needs gradients of the loss on text; give --data FILE",
                         arguments.importance);
  if (!has_data && needs_data(plan.options, model.config))
    return contradiction("--importance", "activations have to be seen; give --data, or --importance weight",
                         "no --data");
  PARE_TRY(Calibration calibration, load_calibration(job, *source, model.config, common.seed));
  if (plan.options.cut_vocabulary) {
    // Distributions over two vocabularies do not compare.
    if (!job.report_data.empty() || !gates.empty())
      return contradiction("--structure vocabulary", "there is no damage report across two vocabularies",
                           gates.empty() ? "--report-data" : "--fail-if");
    calibration.report.samples = 0;
    calibration.report.ids.clear();
  }
  StructuredJob structured;
  structured.source = source;
  structured.model = model;
  structured.options = plan.options;
  StructuredCommand command(job, arguments, common, std::move(plan), std::move(structured));
  return run_job(job, common, command, std::move(calibration), std::move(gates));
}

}  // namespace pare::cli
