#include "cli/quantize_calibrated.h"

#include <algorithm>

#include "cli/job_run.h"
#include "cli/quantize_summary.h"
#include "cli/quantize_target.h"
#include "engine/core/text.h"
#include "quantize/quantize_job.h"

namespace pare::cli {
namespace {

class QuantizeCommand final : public JobCommand {
 public:
  QuantizeCommand(const QuantizeArguments& arguments, const QuantizeSettings& settings, QuantizeJob job,
                  QuantizePlan plan, std::unique_ptr<Model> planned, const CommonOptions& common)
      : arguments_(arguments),
        settings_(settings),
        common_(common),
        job_(std::move(job)),
        plan_(plan),
        planned_(std::move(planned)) {
    plan_repair();
  }

  std::string name() const override { return "quantize"; }
  Json options() const override { return canonical_options(arguments_, settings_); }
  BlockJob& job() override { return job_; }
  uint64_t expected_bytes() const override { return plan_.output_bytes; }
  uint64_t peak_memory_bytes(int64_t context) const override {
    return pipeline_floor_bytes(*planned_, context, settings_.calibrated.match_original);
  }

  void print_plan(int64_t context) const override {
    QuantizePlan plan = plan_;
    plan.peak_memory_bytes = peak_memory_bytes(context);
    if (common_.json) {
      print_json(quantize_json(arguments_, *job_.source, plan, nullptr));
      return;
    }
    print_quantize_plan(arguments_, settings_, plan);
    print_line("  peak memory at least " + format_bytes(plan.peak_memory_bytes) +
               " beyond the program itself; nothing was written (--dry-run)");
  }

  Status decide(JobFolder& folder) override {
    planned_.reset();
    if (!has_target(arguments_)) return {};
    PARE_TRY(chosen_, choose_bits(arguments_, job_, folder, job_.schemes));
    plan_ = plan_quantization(*job_.source, job_.model, job_.schemes);
    plan_repair();
    return {};
  }
  Result<BlockJobResult> run(JobFolder& folder) override { return compress_blocks(job_, folder); }
  Result<Manifest> write(JobFolder& folder, Manifest manifest) override {
    PARE_TRY(const auto sink, open_output_model(*job_.source, arguments_.output, plan_.output_bytes));
    return write_output(
        [&](WeightSink& out, Manifest& records) { return write_compressed(job_, folder, out, records); },
        *sink, folder, std::move(manifest));
  }

  void describe(FinishedJob& done) override {
    done.weight_bytes_before = plan_.input_bytes;
    done.weight_bytes_after = plan_.output_bytes;
    done.complete = [this](RunReport& report) {
      report.curve = chosen_.curve;
      report.curve_unit = chosen_.unit;
      if (!chosen_.curve.empty()) report.extra["predicted"] = chosen_.predicted;
    };
  }

  void print(const FinishedJob& done) const override {
    if (common_.json) {
      print_json(quantize_json(arguments_, *job_.source, plan_, &done));
      return;
    }
    print_quantize_plan(arguments_, settings_, plan_);
    if (has_target(arguments_)) print_chosen_bits(chosen_, job_.model, job_.schemes);
    if (done.damage) print_damage(*done.damage);
    if (arguments_.report) print_matrices(done.manifest);
    print_quantize_outcome(done);
  }

 private:
  // The factors beside rounded matrices.
  void plan_repair() {
    if (arguments_.low_rank_repair == 0) return;
    for (size_t i = 0; i < job_.schemes.size(); ++i) {
      const TensorSpec& spec = job_.model.tensors[i];
      if (!job_.schemes[i] || !spec.is_linear) continue;
      const int64_t rank = std::min({arguments_.low_rank_repair, spec.out(), spec.in()});
      plan_.output_bytes += uint64_t(2 * rank * (spec.out() + spec.in()));
    }
  }

  const QuantizeArguments& arguments_;
  const QuantizeSettings& settings_;
  const CommonOptions& common_;
  QuantizeJob job_;
  QuantizePlan plan_;
  std::unique_ptr<Model> planned_;  // until the work begins
  ChosenBits chosen_;
};

}  // namespace

Result<Exit> run_calibrated(const QuantizeArguments& arguments, const QuantizeSettings& settings,
                            const CommonOptions& common, std::shared_ptr<const WeightSource> source,
                            const ModelDescription& model,
                            const std::vector<std::optional<QuantScheme>>& schemes, const QuantizePlan& plan,
                            std::vector<Gate> gates) {
  PARE_TRY(Calibration calibration, load_calibration(arguments, *source, model.config, common.seed));
  PARE_TRY(auto planned, Model::open(source, Device::cpu()));
  QuantizeJob job;
  job.source = std::move(source);
  job.model = model;
  job.schemes = schemes;
  job.options = settings.calibrated;
  QuantizeCommand command(arguments, settings, std::move(job), plan, std::move(planned), common);
  return run_job(arguments, common, command, std::move(calibration), std::move(gates));
}

}  // namespace pare::cli
