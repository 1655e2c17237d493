#include "cli/recipe_distill.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>

#include "cli/distill_data.h"
#include "cli/distill_job.h"
#include "cli/distill_models.h"
#include "cli/model_argument.h"
#include "cli/planned_source.h"
#include "engine/core/text.h"

namespace pare::cli {
namespace {

class TrainingStep final : public StepCommand {
 public:
  explicit TrainingStep(bool is_distill) {
    arguments_.is_distill = is_distill;
    arguments_.samples = 1;  // it reads the whole text, and asks for no windows of calibration
  }

  void add_options(CLI::App& app) override {
    if (arguments_.is_distill) {
      add_distill_options(app, arguments_);
      // Given by the recipe, not by its settings.
      app.add_option("MODEL", arguments_.model);
      app.get_option("--teacher")->required(false);
    } else {
      add_finetune_options(app, arguments_);
    }
    app.get_option("--data")->required(false);
  }
  JobArguments& arguments() override { return arguments_; }

  Status check() override {
    if (arguments_.data.empty())
      return contradiction("--data", "training needs a text; name it in the recipe or with --data FILE",
                           "no data");
    if (arguments_.minutes)
      return contradiction("--minutes", "how far a machine gets in that time is no recipe; give steps",
                           format_double(*arguments_.minutes));
    if (!arguments_.qat.empty()) {
      PARE_TRY(scheme_, QuantScheme::parse(arguments_.qat));
    }
    return check_distill_arguments(for_run());
  }
  bool has_job() const override { return true; }

  void canonicalize(Json& options) const override {
    if (scheme_) options["qat"] = scheme_->text();
  }
  std::vector<std::string>* overrides() override { return nullptr; }
  void use_teacher(const std::string& model) override { teacher_ = model; }
  bool has_teacher() const override { return arguments_.is_distill; }

  Result<StepPlan> plan(const std::shared_ptr<const WeightSource>& source) override {
    PARE_TRY(const ModelDescription model, describe_model(*source));
    StepPlan plan{.what = what_text(),
                  .weight_bytes_before = stored_bytes(*source),
                  .weight_bytes_after = 0,
                  .peak_memory_bytes = training_weight_bytes(arguments_, model),
                  .result = nullptr};
    std::vector<StoredTensor> tensors = source->tensors();
    for (StoredTensor& stored : tensors) {
      if (stored.scheme) return already_quantized(*source, stored);
      const TensorSpec* spec = model.find(stored.name);
      if (scheme_ && spec != nullptr && spec->is_linear) {
        stored.scheme = scheme_;
        stored.transposed = spec->transposed;
        stored.bytes = scheme_->stored_bytes(spec->out(), spec->in());
      } else if (const auto type = asked_type(); type && stored.is_dense() && is_weight_dtype(stored.dtype)) {
        stored.dtype = *type;
        stored.bytes = uint64_t(stored.shape.numel()) * uint64_t(dtype_bytes(*type));
      }
      plan.weight_bytes_after += stored.bytes;
    }
    plan.result = std::make_shared<PlannedSource>(source, std::move(tensors));
    return plan;
  }

  Result<std::optional<ReportWindows>> report_windows(const JobArguments& report, const WeightSource& source,
                                                      const ModelConfig& config, uint64_t seed) override {
    DistillArguments arguments = for_run();
    arguments.no_report = report.no_report;
    arguments.report_data = report.report_data;
    arguments.report_tokens = report.report_tokens;
    PARE_TRY(DistillData data, load_distill_data(arguments, source, config, seed));
    return std::optional<ReportWindows>(
        ReportWindows{.windows = std::move(data.report), .source = std::move(data.report_source)});
  }

  Result<Exit> run(const CommonOptions& common) override { return run_distill(for_run(), common); }

 private:
  // As the command line would have it.
  DistillArguments for_run() const {
    DistillArguments arguments = arguments_;
    arguments.teacher = teacher_;
    // A name that ends like a weight needs one.
    const auto parsed = parse_weighted_file(arguments.data);
    const bool looks_weighted = !parsed || parsed->weight != 0.0;
    arguments.files = {looks_weighted ? arguments.data + "=1" : arguments.data};
    return arguments;
  }
  std::optional<DType> asked_type() const {
    const std::string& name = arguments_.output.dense_dtype;
    if (name.empty()) return std::nullopt;
    return name == "bf16" ? DType::bf16 : name == "f16" ? DType::f16 : DType::f32;
  }
  std::string what_text() const {
    std::string text = fmt::format("{} steps of {} windows", arguments_.steps.value_or(0), arguments_.batch);
    if (arguments_.lora > 0) text += fmt::format(", adapters of rank {}", arguments_.lora);
    if (scheme_) text += ", as " + scheme_->text() + " will see them";
    return text + (arguments_.is_distill ? ", from the teacher" : ", from the text");
  }

  DistillArguments arguments_;
  std::optional<QuantScheme> scheme_;
  std::string teacher_;
};

}  // namespace

std::unique_ptr<StepCommand> make_training_step(bool is_distill) {
  return std::make_unique<TrainingStep>(is_distill);
}

}  // namespace pare::cli
