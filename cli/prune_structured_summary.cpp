// What `pare prune --structure` says, as text and as JSON.
#include <algorithm>

#include "cli/backends.h"
#include "cli/prune_structured_plan.h"
#include "engine/core/text.h"
#include "evaluate/damage_json.h"
#include "evaluate/generation_speed.h"

namespace pare::cli {
namespace {

Json shape_json(const ModelShape& shape, const ModelCost& cost) {
  Json json = Json::object();
  json["layers"] = Json(shape.layers);
  json["hidden"] = Json(shape.hidden);
  json["heads"] = Json(shape.heads);
  json["kv_heads"] = Json(shape.kv_heads);
  json["head_dim"] = Json(shape.head_dim);
  json["intermediate"] = Json(shape.intermediate);
  json["vocabulary"] = Json(shape.vocabulary);
  if (shape.experts > 0) json["experts"] = Json(shape.experts);
  json["parameters"] = Json(cost.parameters);
  json["macs_per_token"] = Json(cost.linear_weights);
  json["kv_bytes_per_token_at_16_bit"] = Json(2 * cost.kv_values);
  return json;
}

std::string change(int64_t before, int64_t after) {
  std::string text = format_count(uint64_t(before)) + " -> " + format_count(uint64_t(after));
  if (before > 0 && after != before)
    text += " (" + formatted(100.0 * double(before - after) / double(before), "%.1f") + " % less)";
  return text;
}

double mean_of(const Manifest& manifest, const char* key, int64_t& count) {
  double sum = 0.0;
  count = 0;
  for (const TensorRecord& record : manifest.tensors) {
    const Json* value = record.extra.find(key);
    if (value == nullptr || !value->is_number()) continue;
    sum += value->as_double();
    ++count;
  }
  return count > 0 ? sum / double(count) : 0.0;
}

void print_changed(const Manifest& manifest) {
  Table table({"matrix", "shape", ">tokens", ">error dropped", ">error"});
  const auto number = [](const TensorRecord& record, const char* key, const char* format) {
    const Json* value = record.extra.find(key);
    return value != nullptr && value->is_number() ? formatted(value->as_double(), format) : std::string("-");
  };
  for (const TensorRecord& record : manifest.tensors) {
    if (record.method_applied != "structured") continue;
    std::string shape;
    for (const int64_t size : record.shape) shape += (shape.empty() ? "" : " x ") + std::to_string(size);
    table.row({sanitize(record.name), shape, number(record, "tokens", "%.0f"),
               number(record, "output_error_dropped", "%.4f"), number(record, "output_error", "%.4f")});
  }
  print(table.text());
}

}  // namespace

Json structured_json(const JobArguments& job, const StructuredPlan& plan, const StructuredOutcome& outcome,
                     const Json& summary, const FinishedJob* done) {
  Json json = Json::object();
  json["schema_version"] = 1;
  json["command"] = "prune";
  json["dry_run"] = job.dry_run;
  json["model"] = job.model;
  json["output"] = job.output.path;
  Json names = Json::array();
  for (const Structure structure : plan.structures) names.push_back(Json(structure_name(structure)));
  json["structure"] = std::move(names);
  if (plan.target.sparsity) json["sparsity_asked"] = *plan.target.sparsity;
  json["before"] = shape_json(outcome.before, outcome.cost_before);
  json["after"] = shape_json(outcome.after, outcome.cost_after);
  json["parameters_removed"] = 1.0 - double(outcome.cost_after.parameters) /
                                         double(std::max<int64_t>(1, outcome.cost_before.parameters));
  json["weight_bytes_before"] = Json(outcome.bytes_before);
  json["weight_bytes_after"] = Json(outcome.bytes_after);
  if (done == nullptr) return json;
  json["units"] = summary;
  json["output_bytes"] = Json(done->output_bytes);
  json["seconds"] = done->seconds;
  add_peak_memory(json);
  if (done->spilled_bytes) json["spilled_bytes"] = Json(*done->spilled_bytes);
  if (done->resumed_at) json["resumed_at_block"] = *done->resumed_at;
  json["manifest"] = done->manifest.to_json();
  if (done->damage) json["damage"] = to_json(*done->damage);
  if (done->speed) json["speed"] = to_json(*done->speed);
  return json;
}

void print_structured(const JobArguments& job, const StructuredPlan& plan, const StructuredOutcome& outcome,
                      const Json& summary, const FinishedJob* done) {
  print_line(job.model + " -> " + job.output.path);
  const ModelShape& before = outcome.before;
  const ModelShape& after = outcome.after;
  const auto line = [](const char* name, int64_t from, int64_t to) {
    if (from != to) print_line("  " + std::string(name) + " " + change(from, to));
  };
  line("layers", before.layers, after.layers);
  line("hidden size", before.hidden, after.hidden);
  line("query heads", before.heads, after.heads);
  line("key/value heads", before.kv_heads, after.kv_heads);
  line("MLP channels", before.intermediate, after.intermediate);
  line("vocabulary", before.vocabulary, after.vocabulary);
  line("experts", before.experts, after.experts);
  if (plan.options.cut_vocabulary && done == nullptr)
    print_line("  vocabulary: decided from the text when the work begins");
  if (plan.searches_time && done == nullptr)
    print_line("  sizes: searched by measured times when the work begins");
  print_line("  parameters " + change(outcome.cost_before.parameters, outcome.cost_after.parameters));
  print_line("  multiplications per token " +
             change(outcome.cost_before.linear_weights, outcome.cost_after.linear_weights));
  print_line("  cache per token at 16 bit " + format_bytes(uint64_t(2 * outcome.cost_before.kv_values)) +
             " -> " + format_bytes(uint64_t(2 * outcome.cost_after.kv_values)));
  print_line("  weights " + format_bytes(outcome.bytes_before) + " -> " + format_bytes(outcome.bytes_after));
  if (done == nullptr) {
    print_line("  nothing was written (--dry-run)");
    return;
  }
  if (const Json* dropped = summary.find("dropped_layers"); dropped != nullptr && dropped->size() > 0)
    print_line("  layers dropped: " + dropped->dump());
  int64_t count = 0;
  const double plain = mean_of(done->manifest, "output_error_dropped", count);
  if (count > 0) {
    print_line("  output error of " + std::to_string(count) +
               " repaired matrices: " + formatted(plain, "%.4f") + " by dropping, " +
               formatted(mean_of(done->manifest, "output_error", count), "%.4f") + " repaired (mean)");
  }
  if (done->damage) print_damage(*done->damage);
  if (job.report) print_changed(done->manifest);
  if (done->speed) print_line("  " + speed_line(*done->speed));
  if (!done->speed_note.empty()) print_line("  speed was not measured: " + done->speed_note);
  print_line("  file " + format_bytes(done->output_bytes) + " in " + format_duration(done->seconds) +
             ", peak memory " + peak_memory_text());
}

}  // namespace pare::cli
