#include "cli/quantize_summary.h"
#include "cli/backends.h"

#include <algorithm>
#include <map>

#include "engine/core/log.h"
#include "engine/core/text.h"
#include "evaluate/damage_json.h"

namespace pare::cli {
namespace {

// Codes made in this run; those of a sparse weight may have stayed sparse, and factors may repair them.
bool was_rounded(const TensorRecord& record) {
  const bool has_codes = record.kind == "quantized" || record.kind == "sparse" ||
                         record.extra.find("low_rank_repair") != nullptr;
  return has_codes && record.method_applied != "copy" && record.method_applied != "scale";
}

int64_t extra_count(const TensorRecord& record, const char* key) {
  const Json* value = record.extra.find(key);
  return value != nullptr && value->is_integer() ? value->as_int() : 0;
}

bool extra_flag(const TensorRecord& record, const char* key) {
  const Json* value = record.extra.find(key);
  return value != nullptr && value->is_bool() && value->as_bool();
}

// The figure that tells most about a tensor: the error of its outputs where it is known.
std::optional<double> error_of(const TensorRecord& record) {
  const Json* output = record.extra.find("output_error");
  if (output != nullptr && output->is_number()) return output->as_double();
  return record.relative_error;
}

struct Counts {
  std::map<std::string, int64_t> methods;  // as applied
  int64_t quantized = 0, raised_damping = 0, heavily_damped = 0, kept_rtn = 0;
  int64_t dead_columns = 0, clamped = 0, rank_deficient = 0;
};

Counts count(const Manifest& manifest) {
  Counts counts;
  for (const TensorRecord& record : manifest.tensors) {
    if (!was_rounded(record)) continue;
    ++counts.quantized;
    ++counts.methods[record.method_applied];
    if (extra_count(record, "damping_retries") > 0 && record.fallback.empty()) ++counts.raised_damping;
    if (extra_flag(record, "heavily_damped")) ++counts.heavily_damped;
    if (extra_flag(record, "kept_rtn")) ++counts.kept_rtn;
    if (extra_flag(record, "rank_deficient")) ++counts.rank_deficient;
    counts.dead_columns += extra_count(record, "dead_columns");
    counts.clamped += extra_count(record, "clamped_scales");
  }
  return counts;
}

std::string last_line(const Manifest& manifest) {
  const Counts counts = count(manifest);
  std::string line = "pare: done: " + std::to_string(counts.quantized) + " matrices: ";
  for (const auto& [method, number] : counts.methods) line += std::to_string(number) + " " + method + ", ";
  const auto add = [&](int64_t number, const char* text) {
    if (number > 0) line += std::to_string(number) + " " + text + ", ";
  };
  add(counts.raised_damping, "with raised damping");
  add(counts.heavily_damped, "heavily damped");
  add(counts.kept_rtn, "kept plain rounding, which was better");
  line += std::to_string(manifest.fallbacks()) + " fallback; ";
  line += std::to_string(counts.dead_columns) + " dead columns; ";
  return line + std::to_string(counts.clamped) + " scales clamped";
}

// NU13
void warn_rank_deficient(const Manifest& manifest) {
  const int64_t number = count(manifest).rank_deficient;
  if (number == 0) return;
  log_warning(std::to_string(number) +
              " matrices saw fewer calibration tokens than they have input columns; give more --samples or a "
              "longer --context");
}

}  // namespace

Json quantize_json(const QuantizeArguments& arguments, const WeightSource& source, const QuantizePlan& plan,
                   const FinishedJob* done) {
  Json json = Json::object();
  json["schema_version"] = 1;
  json["command"] = "quantize";
  json["dry_run"] = arguments.dry_run;
  json["model"] = source.path();
  json["output"] = arguments.output.path;
  json["scheme"] = arguments.scheme;
  json["method"] = arguments.method;
  json["quantized_tensors"] = Json(plan.quantized_tensors);
  json["kept_tensors"] = Json(plan.kept_tensors);
  json["bits_per_weight"] = plan.bits_per_weight;
  json["weight_bytes_before"] = Json(plan.input_bytes);
  json["weight_bytes_after"] = Json(plan.output_bytes);
  json["peak_memory_estimate_bytes"] = Json(plan.peak_memory_bytes);
  if (done == nullptr) return json;
  json["output_bytes"] = Json(done->output_bytes);
  json["seconds"] = done->seconds;
  add_peak_memory(json);
  if (done->spilled_bytes) json["spilled_bytes"] = Json(*done->spilled_bytes);
  if (done->resumed_at) json["resumed_at_block"] = *done->resumed_at;
  json["fallbacks"] = Json(done->manifest.fallbacks());
  json["rank_deficient"] = Json(count(done->manifest).rank_deficient);
  json["clamped_scales"] = Json(count(done->manifest).clamped);
  json["manifest"] = done->manifest.to_json();
  if (done->damage) json["damage"] = to_json(*done->damage);
  return json;
}

void print_quantize_plan(const QuantizeArguments& arguments, const QuantizeSettings& settings,
                         const QuantizePlan& plan) {
  print_line(arguments.model + " -> " + arguments.output.path);
  print_line("  " + std::to_string(plan.quantized_tensors) + " matrices to " +
             settings.selection.scheme.text() + " by " + settings.calibrated.method.text() +
             (arguments.overrides.empty() ? "" : " (with exceptions)") + ", " +
             std::to_string(plan.kept_tensors) + " tensors kept");
  const double ratio = double(plan.input_bytes) / double(std::max<uint64_t>(1, plan.output_bytes));
  print_line("  weights " + format_bytes(plan.input_bytes) + " -> " + format_bytes(plan.output_bytes) + " (" +
             formatted(ratio, "%.2fx smaller") + "), " + formatted(plan.bits_per_weight, "%.3f") +
             " bits per quantized weight, scales included");
}

void print_matrices(const Manifest& manifest) {
  Table table({"matrix", "scheme", ">bits", ">error", "method"});
  for (const TensorRecord& record : manifest.tensors) {
    if (!was_rounded(record)) continue;
    const std::optional<double> error = error_of(record);
    table.row({sanitize(record.name), record.scheme,
               record.bits_per_weight ? formatted(*record.bits_per_weight, "%.3f") : "-",
               error ? formatted(*error, "%.4f") : "-", record.method_applied});
  }
  print(table.text());
}

void print_quantize_outcome(const FinishedJob& done) {
  const Manifest& manifest = done.manifest;
  print_line("  file " + format_bytes(done.output_bytes) + " in " + format_duration(done.seconds) +
             ", peak memory " + peak_memory_text());
  const TensorRecord* worst = nullptr;
  for (const TensorRecord& record : manifest.tensors) {
    if (!error_of(record)) continue;
    if (worst == nullptr || *error_of(record) > *error_of(*worst)) worst = &record;
  }
  if (worst != nullptr) {
    const bool is_output = worst->extra.find("output_error") != nullptr;
    print_line("  largest error " + formatted(*error_of(*worst), "%.4f") +
               (is_output ? " of the output" : " (relative)") + " in " + sanitize(worst->name));
  }
  warn_rank_deficient(manifest);
  print_line(last_line(manifest));
}

}  // namespace pare::cli
