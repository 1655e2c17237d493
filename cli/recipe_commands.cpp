// The commands that steps of recipes are; declared in recipe_step.h.
#include <fmt/core.h>

#include <CLI/CLI.hpp>

#include "calibrate/block_pipeline.h"
#include "cli/calibration_data.h"
#include "cli/planned_source.h"
#include "cli/prune_command.h"
#include "cli/prune_structured_plan.h"
#include "cli/quantize_command.h"
#include "cli/recipe_distill.h"
#include "cli/recipe_step.h"
#include "engine/core/text.h"
#include "engine/models/model.h"
#include "quantize/stream.h"

namespace pare::cli {

Error already_quantized(const WeightSource& source, const StoredTensor& stored) {
  return Error{.exit = Exit::unsupported,
               .rule = "CF12",
               .path = source.path(),
               .where = quote(stored.name),
               .what = "already quantized when this step would begin",
               .got = stored.scheme->text(),
               .limit = "floating weights",
               .limit_label = "need"};
}

namespace {

class QuantizeStep final : public StepCommand {
 public:
  void add_options(CLI::App& app) override { add_quantize_options(app, arguments_); }
  JobArguments& arguments() override { return arguments_; }

  Status check() override {
    PARE_TRY(settings_, quantize_settings(arguments_));
    return {};
  }
  bool has_job() const override { return is_calibrated(arguments_, settings_); }

  void canonicalize(Json& settings) const override {
    settings["method"] = settings_.calibrated.method.text();
    settings["scheme"] = settings_.selection.scheme.text();
    if (settings_.selection.embedding_scheme)
      settings["embedding"] = settings_.selection.embedding_scheme->text();
    if (settings_.selection.head_scheme) settings["head"] = settings_.selection.head_scheme->text();
  }
  std::vector<std::string>* overrides() override { return &arguments_.overrides; }

  Result<StepPlan> plan(const std::shared_ptr<const WeightSource>& source) override {
    PARE_TRY(const ModelDescription model, describe_model(*source));
    PARE_TRY(const auto schemes, select_schemes(model, settings_.selection));
    const QuantizePlan plan = plan_quantization(*source, model, schemes);
    StepPlan result{
        .what = fmt::format("{} matrices to {} by {}{}, {} tensors kept", plan.quantized_tensors,
                            settings_.selection.scheme.text(), settings_.calibrated.method.text(),
                            arguments_.overrides.empty() ? "" : " (with exceptions)", plan.kept_tensors),
        .weight_bytes_before = plan.input_bytes,
        .weight_bytes_after = plan.output_bytes,
        .peak_memory_bytes = plan.peak_memory_bytes,
        .result = nullptr};
    std::vector<StoredTensor> tensors;
    for (size_t i = 0; i < model.tensors.size(); ++i) {
      const TensorSpec& spec = model.tensors[i];
      const StoredTensor* stored = source->find(spec.name);
      if (stored == nullptr) continue;
      tensors.push_back(*stored);
      if (!schemes[i]) continue;
      if (stored->scheme) return already_quantized(*source, *stored);
      tensors.back().scheme = *schemes[i];
      tensors.back().transposed = spec.transposed;
      tensors.back().bytes = schemes[i]->stored_bytes(spec.out(), spec.in());
    }
    if (has_job()) {
      PARE_TRY(const auto planned, Model::open(source, Device::cpu()));
      const int64_t context = arguments_.context > 0 ? arguments_.context : default_context(model.config);
      result.peak_memory_bytes = pipeline_floor_bytes(*planned, context, settings_.calibrated.match_original);
    }
    result.result = std::make_shared<PlannedSource>(source, std::move(tensors));
    return result;
  }

  Result<Exit> run(const CommonOptions& common) override { return run_quantize(arguments_, common); }

 private:
  QuantizeArguments arguments_;
  QuantizeSettings settings_;
};

class PruneStepCommand final : public StepCommand {
 public:
  void add_options(CLI::App& app) override { add_prune_options(app, arguments_); }
  JobArguments& arguments() override { return arguments_; }

  Status check() override {
    if (is_structured(arguments_.structured) || !arguments_.low_rank.empty()) return check_units();
    PARE_TRY(settings_, prune_settings(arguments_));
    return {};
  }
  bool has_job() const override { return is_whole() || is_calibrated(arguments_, settings_); }

  void canonicalize(Json& options) const override {
    if (is_whole()) {
      if (arguments_.sparsity.empty()) options.erase("sparsity");  // its default is that of single weights
      return;
    }
    options["sparsity"] = settings_.selection.target.text();
    if (settings_.scheme) options["scheme"] = settings_.scheme->text();
  }
  std::vector<std::string>* overrides() override { return &arguments_.overrides; }

  Result<StepPlan> plan(const std::shared_ptr<const WeightSource>& source) override {
    PARE_TRY(const ModelDescription model, describe_model(*source));
    if (is_structured(arguments_.structured)) return plan_units(source, model);
    if (!arguments_.low_rank.empty()) return plan_factors(source);
    PARE_TRY(const auto targets, select_targets(model, settings_.selection, arguments_.allow_ragged));
    for (size_t i = 0; i < model.tensors.size(); ++i) {
      const StoredTensor* stored = source->find(model.tensors[i].name);
      if (targets[i] && stored != nullptr && stored->scheme) return already_quantized(*source, *stored);
    }
    const PrunePlan plan = plan_pruning(*source, model, targets, settings_.is_compact);
    StepPlan result{
        .what = fmt::format("{} matrices to {} by {}, {} tensors kept", plan.pruned_tensors,
                            settings_.selection.target.text(), arguments_.method, plan.kept_tensors),
        .weight_bytes_before = plan.input_bytes,
        .weight_bytes_after = plan.output_bytes,
        .peak_memory_bytes = plan.peak_memory_bytes,
        .result = source};  // the same shapes
    if (!has_job()) return result;
    PARE_TRY(const auto planned, Model::open(source, Device::cpu()));
    const int64_t context = arguments_.context > 0 ? arguments_.context : default_context(model.config);
    result.peak_memory_bytes = pipeline_floor_bytes(*planned, context, false);
    return result;
  }

  Result<Exit> run(const CommonOptions& common) override { return run_prune(arguments_, common); }

 private:
  // Units or factors instead of single weights.
  bool is_whole() const { return is_structured(arguments_.structured) || !arguments_.low_rank.empty(); }
  bool has_data() const { return !arguments_.data.empty() || !arguments_.statistics.empty(); }

  // What does not need the model. A recipe with data gives it to every step that can use it.
  Status check_units() const {
    PARE_CHECK(check_job_arguments(arguments_));
    if (has_data() || arguments_.structured.importance == "weight") return {};
    return contradiction(arguments_.low_rank.empty() ? "--importance" : "--low-rank",
                         "needs calibration data; give --data FILE", "no data");
  }

  Result<StepPlan> plan_units(const std::shared_ptr<const WeightSource>& source,
                              const ModelDescription& model) const {
    StructuredArguments structured = arguments_.structured;
    structured.sparsity = arguments_.sparsity;
    PARE_TRY(const StructuredPlan plan, plan_structured(structured, *source, model, has_data()));
    const StructuredOutcome outcome = outcome_of(*source, model, plan.options.sizes);
    PARE_TRY(const auto planned, Model::open(source, Device::cpu()));
    const int64_t context = arguments_.context > 0 ? arguments_.context : default_context(model.config);
    std::string names;
    for (const Structure structure : plan.structures)
      names.append(names.empty() ? "" : ", ").append(structure_name(structure));
    return StepPlan{.what = "whole units of " + names + (plan.searches_time ? ", by measured time" : ""),
                    .weight_bytes_before = outcome.bytes_before,
                    .weight_bytes_after = outcome.bytes_after,
                    .peak_memory_bytes = pipeline_floor_bytes(*planned, context, structured.match_original),
                    .result = source};  // what follows is planned for the larger model
  }

  Result<StepPlan> plan_factors(const std::shared_ptr<const WeightSource>& source) const {
    uint64_t bytes = 0;
    for (const StoredTensor& tensor : source->tensors()) bytes += tensor.bytes;
    return StepPlan{.what = "two factors per matrix by " + arguments_.low_rank + ", ranks by the work",
                    .weight_bytes_before = bytes,
                    .weight_bytes_after = bytes,
                    .peak_memory_bytes = 0,
                    .result = source};
  }

  PruneArguments arguments_;
  PruneSettings settings_;
};

}  // namespace

std::unique_ptr<StepCommand> make_step_command(const std::string& verb) {
  if (verb == "prune") return std::make_unique<PruneStepCommand>();
  if (verb == "quantize") return std::make_unique<QuantizeStep>();
  if (verb == "distill" || verb == "finetune") return make_training_step(verb == "distill");
  return nullptr;
}

}  // namespace pare::cli
