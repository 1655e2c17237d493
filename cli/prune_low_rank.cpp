#include "cli/prune_low_rank.h"

#include <algorithm>
#include <cmath>

#include "calibrate/input_check.h"
#include "cli/backends.h"
#include "cli/job_run.h"
#include "engine/core/log.h"
#include "engine/core/text.h"
#include "engine/tensor/tensor_scan.h"
#include "evaluate/damage_json.h"
#include "prune/low_rank_step.h"

namespace pare::cli {
namespace {

// What became of the matrices, from the entries of a manifest.
struct RankSummary {
  int64_t factorized = 0, kept_dense = 0;
  int64_t parameters_before = 0, parameters_after = 0;  // of all chosen matrices
  int64_t lowest_rank = 0, highest_rank = 0;
  double largest_error = 0.0;  // of an output; without data of a matrix
};

double number(const TensorRecord& record, const char* key) {
  const Json* value = record.extra.find(key);
  return value != nullptr && value->is_number() ? value->as_double() : 0.0;
}

bool is_factorized(const TensorRecord& record) {
  return record.extra.find("full_rank") != nullptr;
}

double error_of(const TensorRecord& record) {
  return record.extra.find("output_error") != nullptr ? number(record, "output_error")
                                                      : record.relative_error.value_or(0.0);
}

RankSummary summary_of(const Manifest& manifest) {
  RankSummary summary;
  for (const TensorRecord& record : manifest.tensors) {
    const bool is_kept = record.extra.find("kept_dense") != nullptr;
    if (!is_kept && !is_factorized(record)) continue;
    const int64_t out = record.shape[0], in = record.shape[1];
    summary.parameters_before += out * in;
    if (is_kept) {
      ++summary.kept_dense;
      summary.parameters_after += out * in;
      continue;
    }
    const auto rank = int64_t(number(record, "rank"));
    summary.parameters_after += rank * (out + in);
    summary.lowest_rank = summary.factorized == 0 ? rank : std::min(summary.lowest_rank, rank);
    summary.highest_rank = std::max(summary.highest_rank, rank);
    summary.largest_error = std::max(summary.largest_error, error_of(record));
    ++summary.factorized;
  }
  return summary;
}

// Ranks as a job keeps them: 0 for a matrix that stays dense.
Json to_json(const RankTable& ranks) {
  Json json = Json::object();
  for (const auto& [name, rank] : ranks) json[name] = Json(rank.value_or(0));
  return json;
}

class LowRankCommand final : public JobCommand {
 public:
  LowRankCommand(const PruneArguments& arguments, const CommonOptions& common, LowRankOptions options,
                 std::vector<bool> chosen, BlockJob job, std::unique_ptr<Model> planned)
      : arguments_(arguments),
        common_(common),
        options_(std::move(options)),
        chosen_(std::move(chosen)),
        job_(std::move(job)),
        planned_(std::move(planned)),
        has_factors_(arguments.output.path.ends_with(".pare")) {
    for (const StoredTensor& stored : job_.source->tensors()) input_bytes_ += stored.bytes;
  }

  std::string name() const override { return "prune"; }
  Json options() const override {
    Json json = Json::object();
    json["low_rank"] = options_.rule.text();
    json["importance"] = options_.is_weighted ? "activation" : "weight";
    json["form"] = has_factors_ ? "low_rank" : "dense";
    for (const auto& [key, values] :
         {std::pair{"include", &arguments_.include}, std::pair{"exclude", &arguments_.exclude}}) {
      Json list = Json::array();
      for (const std::string& value : *values) list.push_back(Json(value));
      json[key] = std::move(list);
    }
    if (!options_.is_weighted) return json;
    json["samples"] = Json(arguments_.samples);
    json["allow_fallback"] = arguments_.allow_fallback;
    return json;
  }
  BlockJob& job() override { return job_; }
  uint64_t expected_bytes() const override { return input_bytes_; }  // factors are never larger
  uint64_t peak_memory_bytes(int64_t context) const override {
    // Beside a block: the moment, its eigenvectors and the solver's work space in double, the matrix
    // likewise.
    uint64_t widest = 0, largest = 0;
    for (const TensorSpec& spec : job_.model.tensors) {
      if (!spec.is_linear) continue;
      widest = std::max(widest, uint64_t(spec.in()));
      largest = std::max(largest, uint64_t(spec.shape.numel()));
    }
    return pipeline_floor_bytes(*planned_, context, false) + widest * widest * 8 * 5 + largest * 8 * 4;
  }

  void print_plan(int64_t context) const override {
    if (common_.json) {
      Json json = head();
      json["peak_memory_estimate_bytes"] = Json(peak_memory_bytes(context));
      print_json(json);
      return;
    }
    print_head();
    print_line("  peak memory at least " + format_bytes(peak_memory_bytes(context)) +
               " beyond the program itself; ranks depend on the spectra; nothing was written (--dry-run)");
  }

  Status decide(JobFolder& folder) override {
    planned_.reset();
    if (options_.rule.kind != RankRule::Kind::budget) return {};
    PARE_TRY(const Json decided, job_decision(folder));
    if (!decided.is_null()) return read_ranks(decided, folder);
    PARE_CHECK(check_inputs(*job_.source, job_.model, {}));
    PARE_TRY(ranks_, budget_ranks(job_, chosen_, options_, folder.path()));
    return commit_decision(folder, to_json(ranks_));
  }

  Result<BlockJobResult> run(JobFolder& folder) override {
    PARE_TRY(const std::vector<Json> done, block_notes(folder));
    if (done.empty()) PARE_CHECK(check_inputs(*job_.source, job_.model, {}));
    LowRankStep step(job_.model, chosen_, options_, ranks_);
    return run_blocks(job_, step, folder);
  }

  Result<Manifest> write(JobFolder& folder, Manifest manifest) override {
    weight_bytes_ = 0;
    const auto convert = [&](const TensorSpec& spec, WeightData& data, TensorRecord& record) -> Status {
      if (data.is_low_rank() && !has_factors_) PARE_CHECK(multiply_out(spec, data, record));
      weight_bytes_ += data.described(spec.name).bytes;
      return {};
    };
    PARE_TRY(const auto sink, open_output_model(*job_.source, arguments_.output, input_bytes_));
    return write_output([&](WeightSink& out,
                            Manifest& records) { return write_changed(job_, folder, convert, out, records); },
                        *sink, folder, std::move(manifest));
  }

  void describe(FinishedJob& done) override {
    done.weight_bytes_before = input_bytes_;
    done.weight_bytes_after = weight_bytes_ > 0 ? weight_bytes_ : done.output_bytes;
    done.wants_speed = has_factors_;
  }

  void print(const FinishedJob& done) const override {
    const RankSummary summary = summary_of(done.manifest);
    if (common_.json) {
      print_json(outcome(done, summary));
      return;
    }
    print_head();
    const double share =
        double(summary.parameters_after) / double(std::max<int64_t>(1, summary.parameters_before));
    print_line("  " + std::to_string(summary.factorized) + " matrices as factors of rank " +
               std::to_string(summary.lowest_rank) + " to " + std::to_string(summary.highest_rank) + ", " +
               std::to_string(summary.kept_dense) + " stay dense; " + formatted(100.0 * share, "%.1f %%") +
               " of their " + format_count(uint64_t(summary.parameters_before)) + " parameters kept");
    print_line("  largest error " + formatted(summary.largest_error, "%.4f") +
               (options_.is_weighted ? " of an output" : " of a matrix"));
    if (arguments_.report) print_ranks(done.manifest);
    if (!has_factors_)
      print_line(
          "  the folder holds the products of the factors: nothing is smaller or faster; a .pare "
          "file keeps the factors");
    print_line("  weights " + format_bytes(done.weight_bytes_before) + " -> " +
               format_bytes(done.weight_bytes_after) + ", file " + format_bytes(done.output_bytes));
    if (done.damage) print_damage(*done.damage);
    if (done.speed) print_line("  " + speed_line(*done.speed));
    if (!done.speed_note.empty()) print_line("  speed not measured: " + done.speed_note);
    print_line("  " + format_duration(done.seconds) + ", peak memory " + peak_memory_text());
    print_line("pare: done: " + std::to_string(summary.factorized) + " matrices factorized, " +
               std::to_string(summary.kept_dense) + " kept; " + std::to_string(done.manifest.fallbacks()) +
               " fallback");
  }

 private:
  Json head() const {
    Json json = Json::object();
    json["schema_version"] = 1;
    json["command"] = "prune";
    json["dry_run"] = arguments_.dry_run;
    json["model"] = job_.source->path();
    json["output"] = arguments_.output.path;
    json["low_rank"] = options_.rule.text();
    json["importance"] = options_.is_weighted ? "activation" : "weight";
    json["matrices"] = Json(int64_t(std::count(chosen_.begin(), chosen_.end(), true)));
    json["weight_bytes_before"] = Json(input_bytes_);
    return json;
  }

  void print_head() const {
    print_line(arguments_.model + " -> " + arguments_.output.path);
    print_line("  " + std::to_string(std::count(chosen_.begin(), chosen_.end(), true)) +
               " matrices by low rank, " + options_.rule.text() +
               (options_.is_weighted ? ", weighted by their inputs" : ", by the weights alone"));
  }

  Json outcome(const FinishedJob& done, const RankSummary& summary) const {
    Json json = head();
    json["factorized_tensors"] = Json(summary.factorized);
    json["dense_tensors"] = Json(summary.kept_dense);
    json["parameters_before"] = Json(summary.parameters_before);
    json["parameters_after"] = Json(summary.parameters_after);
    json["largest_error"] = summary.largest_error;
    json["weight_bytes_after"] = Json(done.weight_bytes_after);
    json["output_bytes"] = Json(done.output_bytes);
    json["seconds"] = done.seconds;
    add_peak_memory(json);
    if (done.spilled_bytes) json["spilled_bytes"] = Json(*done.spilled_bytes);
    if (done.resumed_at) json["resumed_at_block"] = *done.resumed_at;
    json["fallbacks"] = Json(done.manifest.fallbacks());
    json["manifest"] = done.manifest.to_json();
    if (done.damage) json["damage"] = pare::to_json(*done.damage);
    if (done.speed) json["speed"] = pare::to_json(*done.speed);
    if (!done.speed_note.empty()) json["speed_note"] = done.speed_note;
    return json;
  }

  void print_ranks(const Manifest& manifest) const {
    Table table({"matrix", ">rank", ">of", ">energy", ">error", ">bytes", "form"});
    for (const TensorRecord& record : manifest.tensors) {
      if (record.extra.find("kept_dense") != nullptr) {
        table.row({sanitize(record.name), "-", std::to_string(std::min(record.shape[0], record.shape[1])),
                   "-", "-", "-", record.kind});
      } else if (is_factorized(record)) {
        table.row({sanitize(record.name), std::to_string(int64_t(number(record, "rank"))),
                   std::to_string(int64_t(number(record, "full_rank"))),
                   formatted(number(record, "kept_energy"), "%.4f"), formatted(error_of(record), "%.4f"),
                   format_bytes(uint64_t(number(record, "bytes"))), record.kind});
      }
    }
    ::pare::cli::print(table.text());
  }

  // The product as the checkpoint stored the matrix.
  Status multiply_out(const TensorSpec& spec, WeightData& data, TensorRecord& record) const {
    PARE_TRY(Tensor dense, data.to_dense_tensor());
    const StoredTensor& before = *job_.source->find(spec.name);
    const DType dtype = before.is_dense() ? before.dtype : factor_type(before);
    PARE_TRY(dense, converted(dense, dtype));
    PARE_CHECK(require_finite(dense, spec.name, job_.source->path()));
    data = WeightData{.form = dense};
    record.kind = "dense";
    record.scheme = std::string(dtype_name(dtype));
    record.bits_per_weight.reset();
    record.extra["bytes"] = Json(uint64_t(dense.size_bytes()));
    return {};
  }

  Status read_ranks(const Json& decided, const JobFolder& folder) {
    ranks_.clear();
    for (size_t i = 0; i < chosen_.size(); ++i) {
      if (!chosen_[i]) continue;
      const TensorSpec& spec = job_.model.tensors[i];
      const Json* rank = decided.find(spec.name);
      if (rank == nullptr || rank->kind() != Json::Kind::integer || rank->as_int() < 0 ||
          rank->as_int() > std::min(spec.out(), spec.in())) {
        return Error{.exit = Exit::malformed,
                     .rule = {},
                     .path = folder.path(),
                     .where = "decision",
                     .what = "not a choice of ranks; --restart begins anew",
                     .got = {},
                     .limit = {}};
      }
      ranks_[spec.name] = rank->as_int() > 0 ? std::optional(rank->as_int()) : std::nullopt;
    }
    return {};
  }

  const PruneArguments& arguments_;
  const CommonOptions& common_;
  LowRankOptions options_;
  std::vector<bool> chosen_;
  BlockJob job_;
  std::unique_ptr<Model> planned_;  // until the work begins
  bool has_factors_;
  RankTable ranks_;  // of a budget
  uint64_t input_bytes_ = 0, weight_bytes_ = 0;
};

// Linears inside blocks, by --include and --exclude. Exit 4 for one that has codes.
Result<std::vector<bool>> chosen_linears(const PruneArguments& arguments, const WeightSource& source,
                                         const ModelDescription& model) {
  PruneSelection selection;
  selection.include = arguments.include;
  selection.exclude = arguments.exclude;
  PARE_TRY(const SparsityList targets, select_targets(model, selection, true));
  std::vector<bool> chosen;
  for (size_t i = 0; i < targets.size(); ++i) {
    const TensorSpec& spec = model.tensors[i];
    const StoredTensor* stored = source.find(spec.name);
    chosen.push_back(targets[i] && spec.is_linear && spec.block >= 0 && stored != nullptr);
    if (chosen.back() && stored->scheme) return already_quantized(source, *stored);
  }
  return chosen;
}

}  // namespace

Result<Exit> run_low_rank(const PruneArguments& arguments, const CommonOptions& common) {
  LowRankOptions options;
  PARE_TRY(options.rule, RankRule::parse(arguments.low_rank));
  PARE_CHECK(check_job_arguments(arguments));
  options.is_weighted = !arguments.data.empty() || !arguments.statistics.empty();
  options.seed = common.seed;
  options.allow_fallback = arguments.allow_fallback;
  PARE_TRY(std::vector<Gate> gates, report_gates(arguments));
  PARE_TRY(auto source, open_job_input(arguments, common));
  PARE_TRY(const ModelDescription model, describe_model(*source));
  PARE_TRY(std::vector<bool> chosen, chosen_linears(arguments, *source, model));
  PARE_TRY(Calibration calibration, load_calibration(arguments, *source, model.config, common.seed));
  PARE_TRY(auto planned, Model::open(source, Device::cpu()));
  BlockJob job;
  job.source = std::move(source);
  job.model = model;
  LowRankCommand command(arguments, common, std::move(options), std::move(chosen), std::move(job),
                         std::move(planned));
  return run_job(arguments, common, command, std::move(calibration), std::move(gates));
}

}  // namespace pare::cli
