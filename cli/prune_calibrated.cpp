#include "cli/prune_calibrated.h"

#include <algorithm>

#include "calibrate/input_check.h"
#include "cli/job_run.h"
#include "cli/prune_summary.h"
#include "engine/core/progress.h"
#include "engine/core/text.h"
#include "prune/gradient_job.h"
#include "quantize/joint_rounder.h"

namespace pare::cli {
namespace {

class PruneCommand final : public JobCommand {
 public:
  PruneCommand(const PruneArguments& arguments, const PruneSettings& settings, BlockJob job,
               SparsityList targets, std::unique_ptr<Model> planned, const CommonOptions& common)
      : arguments_(arguments),
        settings_(settings),
        common_(common),
        job_(std::move(job)),
        targets_(std::move(targets)),
        plan_(planned_bytes()),
        planned_(std::move(planned)) {
    if (settings_.gradient) gradients_.emplace(job_.model, targets_, *settings_.gradient);
  }

  // The file has channel norms and no second moments.
  void use_norms_only() { norms_only_ = true; }

  std::string name() const override { return "prune"; }
  Json options() const override { return canonical_options(arguments_, settings_); }
  BlockJob& job() override { return job_; }
  uint64_t expected_bytes() const override { return plan_.output_bytes; }
  uint64_t peak_memory_bytes(int64_t context) const override {
    const uint64_t blocks = pipeline_floor_bytes(*planned_, context, false);
    if (!gradients_) return blocks;
    const auto gradients = gradients_->planned_bytes(job_.source, context);
    return gradients ? std::max(blocks, *gradients) : blocks;
  }

  void print_plan(int64_t context) const override {
    PrunePlan plan = plan_;
    plan.peak_memory_bytes = peak_memory_bytes(context);
    if (common_.json) {
      print_json(prune_json(arguments_, settings_, *job_.source, plan, nullptr));
      return;
    }
    print_prune_plan(arguments_, settings_, plan);
    print_line("  weights " + format_bytes(plan.input_bytes) + " -> " + format_bytes(plan.output_bytes));
    print_line("  peak memory at least " + format_bytes(plan.peak_memory_bytes) +
               " beyond the program itself; nothing was written (--dry-run)");
  }

  Status decide(JobFolder& folder) override {
    planned_.reset();
    if (gradients_) PARE_CHECK(measure_gradients(folder));
    if (arguments_.allocation == "uniform") return {};
    PARE_TRY(const Json decided, job_decision(folder));
    if (!decided.is_null()) return read_decision(decided, folder);
    if (is_one_cut()) return decide_counts(folder);
    PARE_TRY(targets_, chosen_targets(folder));
    plan_ = planned_bytes();
    Json decision = Json::object();
    for (size_t i = 0; i < targets_.size(); ++i)
      if (targets_[i]) decision[job_.model.tensors[i].name] = Json(targets_[i]->sparsity.millionths);
    return commit_decision(folder, std::move(decision));
  }

  Result<BlockJobResult> run(JobFolder& folder) override {
    PARE_TRY(const std::vector<Json> done, block_notes(folder));
    if (done.empty()) PARE_CHECK(check_inputs(*job_.source, job_.model, {}));
    PARE_CHECK(check_dense());
    PruneOptions options = settings_.prune;
    options.norms_only = norms_only_;
    if (settings_.scheme) {
      PARE_TRY(const RounderFactory rounder, joint_rounder(*settings_.scheme, arguments_.clamp));
      options.rounder = [rounder](const TensorSpec&) { return rounder; };
    }
    if (gradients_) {
      options.scores = [this](const TensorSpec& spec, const Tensor& weight) {
        return gradients_->scores(spec, weight);
      };
    }
    options.counts = counts_;
    PruneStep step(job_.model, targets_, std::move(options));
    return run_blocks(job_, step, folder);
  }

  Result<Manifest> write(JobFolder& folder, Manifest manifest) override {
    std::map<std::string, const PruneTarget*> pruned;
    for (size_t i = 0; i < targets_.size(); ++i)
      if (targets_[i] && job_.model.tensors[i].is_linear) pruned[job_.model.tensors[i].name] = &*targets_[i];
    weight_bytes_ = 0;
    const auto convert = [&](const TensorSpec& spec, WeightData& data, TensorRecord& record) -> Status {
      const auto target = pruned.find(spec.name);
      if (target != pruned.end() && settings_.is_compact)
        PARE_CHECK(compact(spec, *target->second, data, record));
      weight_bytes_ += data.described(spec.name).bytes;
      return {};
    };
    PARE_TRY(const auto sink, open_output_model(*job_.source, arguments_.output, plan_.output_bytes));
    return write_output([&](WeightSink& out,
                            Manifest& records) { return write_changed(job_, folder, convert, out, records); },
                        *sink, folder, std::move(manifest));
  }

  void describe(FinishedJob& done) override {
    done.weight_bytes_before = plan_.input_bytes;
    done.weight_bytes_after = weight_bytes_ > 0 ? weight_bytes_ : plan_.output_bytes;
    done.wants_speed = true;
  }

  void print(const FinishedJob& done) const override {
    if (common_.json) {
      print_json(prune_json(arguments_, settings_, *job_.source, plan_, &done));
      return;
    }
    print_prune_plan(arguments_, settings_, plan_);
    if (arguments_.report) print_pruned_matrices(done.manifest);
    print_prune_outcome(plan_, done);
  }

 private:
  PrunePlan planned_bytes() const {
    PrunePlan plan = plan_pruning(*job_.source, job_.model, targets_, settings_.is_compact);
    for (size_t i = 0; i < targets_.size(); ++i) {
      if (!targets_[i] || (is_one_cut() && !shares_cut(i))) continue;
      const TensorSpec& spec = job_.model.tensors[i];
      const int64_t rank = std::min({settings_.prune.repair_rank, spec.out(), spec.in()});
      plan.output_bytes += uint64_t(2 * rank * (spec.out() + spec.in()));
    }
    return plan;
  }

  Status check_dense() const {
    for (size_t i = 0; i < targets_.size(); ++i) {
      const StoredTensor* stored = job_.source->find(job_.model.tensors[i].name);
      if (targets_[i] && stored != nullptr && !can_be_quantized(*stored))
        return already_quantized(*job_.source, *stored);
    }
    return {};
  }

  // Gradients are of the model as it came.
  Status measure_gradients(JobFolder& folder) {
    if (folder.generation() == 0) PARE_CHECK(check_inputs(*job_.source, job_.model, {}));
    PARE_CHECK(check_dense());
    Progress progress("gradients", job_.windows.samples, "windows");
    int64_t shown = 0;
    LossGradientOptions options;
    options.window_done = [&](int64_t windows) {
      progress.advance(windows - shown);
      shown = windows;
    };
    return gradients_->measure(job_, options, folder);
  }

  // One cut over the scores of all matrices: what is decided are numbers of weights.
  bool is_one_cut() const { return gradients_ && arguments_.allocation == "global"; }
  // What --set names keeps its value.
  bool shares_cut(size_t tensor) const {
    return targets_[tensor] && *targets_[tensor] == settings_.selection.target;
  }

  Status decide_counts(JobFolder& folder) {
    SparsityList cut = targets_;
    for (size_t i = 0; i < cut.size(); ++i)
      if (!shares_cut(i)) cut[i].reset();
    PARE_TRY(const std::vector<int64_t> counts, gradients_->counts(*job_.source, job_.model, cut));
    Json decision = Json::object();
    for (size_t i = 0; i < cut.size(); ++i)
      if (cut[i]) decision[job_.model.tensors[i].name] = Json(counts[i]);
    PARE_CHECK(commit_decision(folder, decision));
    return read_decision(decision, folder);
  }

  Status read_decision(const Json& decided, const JobFolder& folder) {
    for (size_t i = 0; i < targets_.size(); ++i) {
      if (!targets_[i] || (is_one_cut() && !shares_cut(i))) continue;
      const TensorSpec& spec = job_.model.tensors[i];
      const Json* value = decided.find(spec.name);
      const int64_t most = is_one_cut() ? spec.shape.numel() : Sparsity::kWhole;
      if (value == nullptr || !value->is_integer() || value->as_int() < 0 || value->as_int() > most) {
        return Error{.exit = Exit::malformed,
                     .rule = {},
                     .path = folder.path(),
                     .where = "decision",
                     .what = "not a choice of sparsities; --restart begins anew",
                     .got = {},
                     .limit = {}};
      }
      if (is_one_cut()) {
        counts_[spec.name] = value->as_int();
        targets_[i]->sparsity = Sparsity::of(double(value->as_int()) / double(most));
      } else {
        targets_[i]->sparsity.millionths = value->as_int();
      }
    }
    plan_ = planned_bytes();
    return {};
  }

  Result<SparsityList> chosen_targets(const JobFolder& folder) {
    PARE_CHECK(check_inputs(*job_.source, job_.model, {}));
    PipelineOptions pipeline;
    pipeline.memory_limit = job_.memory_limit;
    pipeline.device = job_.device;
    pipeline.device_limit = job_.device_limit;
    pipeline.spill_folder = folder.path();
    pipeline.advance = job_.advance;
    const Sparsity share = settings_.selection.target.sparsity;
    if (arguments_.allocation == "owl")
      return owl_targets(job_.source, job_.model, job_.windows, targets_, share, settings_.owl,
                         std::move(pipeline));
    MeasuredOptions options;
    options.memory_limit = job_.memory_limit;
    return measured_targets(job_.source, job_.model, job_.windows, targets_, share, options,
                            std::move(pipeline));
  }

  const PruneArguments& arguments_;
  const PruneSettings& settings_;
  const CommonOptions& common_;
  BlockJob job_;
  SparsityList targets_;
  PrunePlan plan_;
  std::unique_ptr<Model> planned_;  // until the work begins
  std::optional<GradientJob> gradients_;
  std::map<std::string, int64_t, std::less<>> counts_;  // of one cut over all matrices
  uint64_t weight_bytes_ = 0;
  bool norms_only_ = false;
};

}  // namespace

Result<Exit> run_calibrated(const PruneArguments& arguments, const PruneSettings& settings,
                            const CommonOptions& common, std::shared_ptr<const WeightSource> source,
                            const ModelDescription& model, SparsityList targets, std::vector<Gate> gates) {
  for (size_t i = 0; i < targets.size(); ++i) {
    if (!targets[i] || model.tensors[i].is_linear) continue;
    return Error{.exit = Exit::unsupported,
                 .rule = "RC14",
                 .path = "--set",
                 .where = quote(model.tensors[i].name),
                 .what = "the output head can be pruned by magnitude without data only",
                 .got = arguments.method,
                 .limit = {}};
  }
  for (const BlockConfig& block : model.config.blocks) {
    if (block.experts == 0 || arguments.calibrate != "block") continue;
    return Error{.exit = Exit::unsupported,
                 .rule = "CL13",
                 .path = "--calibrate",
                 .where = "mixture of experts",
                 .what = "statistics of whole blocks do not tell experts apart; --calibrate site does",
                 .got = arguments.calibrate,
                 .limit = {}};
  }
  PARE_TRY(Calibration calibration, load_calibration(arguments, *source, model.config, common.seed));
  PARE_TRY(auto planned, Model::open(source, Device::cpu()));
  BlockJob job;
  job.source = std::move(source);
  job.model = model;
  PruneCommand command(arguments, settings, std::move(job), std::move(targets), std::move(planned), common);
  if (calibration.statistics != nullptr && settings.prune.method != PruneMethod::sparsegpt) {
    const StatisticSet collected = calibration.statistics->header().collected;
    if (!collected.has(Statistic::second_moment) && collected.has(Statistic::square))
      command.use_norms_only();
  }
  return run_job(arguments, common, command, std::move(calibration), std::move(gates));
}

}  // namespace pare::cli
