#include "cli/prune_summary.h"
#include "cli/backends.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "engine/core/log.h"
#include "engine/core/text.h"
#include "evaluate/damage_json.h"

namespace pare::cli {
namespace {

const Json* extra(const TensorRecord& record, const char* key) {
  return record.extra.find(key);
}

double extra_number(const TensorRecord& record, const char* key) {
  const Json* value = extra(record, key);
  return value != nullptr && value->is_number() ? value->as_double() : 0.0;
}

bool is_pruned(const TensorRecord& record) {
  return extra(record, "sparsity") != nullptr;
}

std::string last_line(const Manifest& manifest) {
  std::map<std::string, int64_t> methods;
  int64_t pruned = 0, raised = 0, dead = 0;
  for (const TensorRecord& record : manifest.tensors) {
    if (!is_pruned(record)) continue;
    ++pruned;
    ++methods[record.method_applied];
    raised += extra_number(record, "damping_retries") > 0.0;
    dead += int64_t(extra_number(record, "dead_columns"));
  }
  std::string line = "pare: done: " + std::to_string(pruned) + " matrices: ";
  for (const auto& [method, number] : methods) line += std::to_string(number) + " " + method + ", ";
  if (raised > 0) line += std::to_string(raised) + " with raised damping, ";
  line += std::to_string(manifest.fallbacks()) + " fallback; ";
  return line + std::to_string(dead) + " dead columns";
}

std::string method_text(const PruneSettings& settings) {
  const auto name = std::string(prune_method_name(settings.prune.method));
  if (settings.prune.method != PruneMethod::taylor) return name;
  return name + " (" + std::string(gradient_score_name(*settings.gradient)) + ")";
}

// The range, when sparsities differ.
void print_range(const Manifest& manifest) {
  bool differ = false;
  std::optional<double> first;
  for (const TensorRecord& record : manifest.tensors) {
    if (!is_pruned(record)) continue;
    const double asked = extra_number(record, "sparsity_asked");
    differ = differ || (first && std::abs(*first - asked) > 1e-3);
    if (!first) first = asked;
  }
  if (!differ) return;
  std::string line = "  sparsity by matrix from ";
  double low = 1.0, high = 0.0;
  for (const TensorRecord& record : manifest.tensors) {
    if (!is_pruned(record)) continue;
    low = std::min(low, extra_number(record, "sparsity"));
    high = std::max(high, extra_number(record, "sparsity"));
  }
  print_line(line + formatted(100.0 * low, "%.1f %%") + " to " + formatted(100.0 * high, "%.1f %%") +
             " (--report lists them)");
}

}  // namespace

ReachedSparsity reached_sparsity(const Manifest& manifest) {
  ReachedSparsity reached;
  for (const TensorRecord& record : manifest.tensors) {
    if (!is_pruned(record)) continue;
    ++reached.matrices;
    int64_t weights = 1;
    for (const int64_t size : record.shape) weights *= size;
    reached.weights += weights;
    reached.kept += int64_t(extra_number(record, "kept"));
  }
  return reached;
}

Json prune_json(const PruneArguments& arguments, const PruneSettings& settings, const WeightSource& source,
                const PrunePlan& plan, const FinishedJob* done) {
  Json json = Json::object();
  json["schema_version"] = 1;
  json["command"] = "prune";
  json["dry_run"] = arguments.dry_run;
  json["model"] = source.path();
  json["output"] = arguments.output.path;
  json["method"] = std::string(prune_method_name(settings.prune.method));
  if (settings.prune.method == PruneMethod::taylor)
    json["taylor_form"] = std::string(gradient_score_name(*settings.gradient));
  json["sparsity"] = settings.selection.target.text();
  json["allocation"] = arguments.allocation;
  json["pruned_tensors"] = Json(plan.pruned_tensors);
  json["kept_tensors"] = Json(plan.kept_tensors);
  json["parameters"] = Json(plan.parameters);
  json["pruned_parameters"] = Json(plan.pruned_parameters);
  json["removed_parameters"] = Json(plan.removed_parameters);
  json["weight_bytes_before"] = Json(plan.input_bytes);
  json["weight_bytes_after"] = Json(done == nullptr ? plan.output_bytes : done->weight_bytes_after);
  json["peak_memory_estimate_bytes"] = Json(plan.peak_memory_bytes);
  if (done == nullptr) return json;
  const ReachedSparsity reached = reached_sparsity(done->manifest);
  json["sparsity_reached"] = reached.share();
  json["output_bytes"] = Json(done->output_bytes);
  json["seconds"] = done->seconds;
  add_peak_memory(json);
  if (done->spilled_bytes) json["spilled_bytes"] = Json(*done->spilled_bytes);
  if (done->resumed_at) json["resumed_at_block"] = *done->resumed_at;
  json["fallbacks"] = Json(done->manifest.fallbacks());
  json["manifest"] = done->manifest.to_json();
  if (done->damage) json["damage"] = to_json(*done->damage);
  if (done->speed) json["speed"] = to_json(*done->speed);
  if (!done->speed_note.empty()) json["speed_note"] = done->speed_note;
  return json;
}

void print_prune_plan(const PruneArguments& arguments, const PruneSettings& settings, const PrunePlan& plan) {
  print_line(arguments.model + " -> " + arguments.output.path);
  const double share = double(plan.removed_parameters) / double(std::max<int64_t>(1, plan.parameters));
  print_line("  " + std::to_string(plan.pruned_tensors) + " matrices lose " +
             settings.selection.target.text() + " by " + method_text(settings) + ", " + arguments.allocation +
             (settings.scheme ? ", rounded to " + settings.scheme->text() : "") +
             (arguments.overrides.empty() ? "" : " (with exceptions)") + "; " +
             std::to_string(plan.kept_tensors) + " tensors kept");
  print_line("  " + format_count(uint64_t(plan.removed_parameters)) + " of " +
             format_count(uint64_t(plan.parameters)) + " parameters removed (" +
             formatted(100.0 * share, "%.1f %%") + ")");
}

void print_pruned_matrices(const Manifest& manifest) {
  Table table({"matrix", ">asked", ">sparsity", ">error", "method", "form"});
  for (const TensorRecord& record : manifest.tensors) {
    if (!is_pruned(record)) continue;
    const Json* output = extra(record, "output_error");
    const std::optional<double> error =
        output != nullptr && output->is_number() ? std::optional(output->as_double()) : record.relative_error;
    table.row({sanitize(record.name), formatted(extra_number(record, "sparsity_asked"), "%.4f"),
               formatted(extra_number(record, "sparsity"), "%.4f"), error ? formatted(*error, "%.4f") : "-",
               record.method_applied, record.kind + " " + record.scheme});
  }
  print(table.text());
}

void print_prune_outcome(const PrunePlan& plan, const FinishedJob& done) {
  const ReachedSparsity reached = reached_sparsity(done.manifest);
  print_line("  sparsity reached " + formatted(100.0 * reached.share(), "%.3f %%") + " of " +
             format_count(uint64_t(reached.weights)) + " weights in " + std::to_string(reached.matrices) +
             " matrices");
  print_range(done.manifest);
  const double ratio = double(plan.input_bytes) / double(std::max<uint64_t>(1, done.weight_bytes_after));
  print_line("  weights " + format_bytes(plan.input_bytes) + " -> " + format_bytes(done.weight_bytes_after) +
             " (" + formatted(ratio, "%.2fx smaller") + "), file " + format_bytes(done.output_bytes));
  if (done.damage) print_damage(*done.damage);
  if (done.speed) print_line("  " + speed_line(*done.speed));
  if (!done.speed_note.empty()) print_line("  speed not measured: " + done.speed_note);
  print_line("  " + format_duration(done.seconds) + ", peak memory " + peak_memory_text());
  print_line(last_line(done.manifest));
}

}  // namespace pare::cli
