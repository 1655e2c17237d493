#include "cli/export_dialect.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>

#include "cli/backends.h"
#include "cli/forward_difference.h"
#include "cli/model_argument.h"
#include "engine/core/file.h"
#include "engine/core/progress.h"
#include "engine/core/text.h"
#include "formats/open_model.h"

namespace pare::cli {
namespace {

TensorRecord record_of(const StoredTensor& tensor) {
  TensorRecord record;
  record.name = tensor.name;
  record.kind = tensor.form_name();
  record.scheme = tensor.scheme ? tensor.scheme->text() : std::string(dtype_name(tensor.dtype));
  record.shape.assign(tensor.shape.sizes().begin(), tensor.shape.sizes().end());
  record.method_asked = record.method_applied = "copy";
  return record;
}

// What was done to the tensors earlier stays on record; those that have no record were copied.
std::vector<TensorRecord> records_of(const WeightSource& source, const ModelDescription& model) {
  std::vector<TensorRecord> records;
  for (const TensorSpec& spec : model.tensors) {
    TensorRecord record = record_of(*source.find(spec.name));
    if (source.manifest() != nullptr) {
      for (const TensorRecord& known : source.manifest()->tensors) {
        if (known.name == spec.name) record = known;
      }
    }
    records.push_back(std::move(record));
  }
  return records;
}

struct Outcome {
  size_t tensors = 0;
  uint64_t bytes = 0;
  double seconds = 0.0;
  ForwardDifference difference;
};

void report(const std::string& model, const Dialect& dialect, const DialectPlan& plan,
            const std::string& output, const Outcome& outcome, const CommonOptions& common) {
  if (common.json) {
    Json notes = Json::array();
    for (const std::string& note : plan.notes) notes.push_back(note);
    Json json = Json::object();
    json["schema_version"] = 1;
    json["command"] = "export";
    json["model"] = model;
    json["output"] = output;
    json["format"] = dialect.name;
    json["notes"] = std::move(notes);
    json["tensors"] = Json(uint64_t{outcome.tensors});
    json["output_bytes"] = Json(outcome.bytes);
    json["max_logit_difference"] = outcome.difference.largest;
    json["max_logit"] = outcome.difference.largest_logit;
    json["seconds"] = outcome.seconds;
    add_peak_memory(json);
    print_json(json);
    return;
  }
  print_line(fmt::format("{} -> {}", model, output));
  for (const std::string& note : plan.notes) print_line("  " + note);
  print_line(fmt::format("  {} tensors, {} in {}; re-opened and compared", outcome.tensors,
                         format_bytes(outcome.bytes), format_duration(outcome.seconds)));
  print_line(fmt::format("  logits of {} tokens differ by at most {:.3g} (largest logit {:.3g})",
                         outcome.difference.tokens, outcome.difference.largest,
                         outcome.difference.largest_logit));
  print_line(fmt::format("pare: done: {} tensors, 0 fallback", outcome.tensors));
}

}  // namespace

Result<Exit> export_dialect(const std::string& model_name, const Dialect& dialect,
                            const OutputOptions& output, const CommonOptions& common) {
  PARE_TRY(const Device device, chosen_device(common));
  PARE_CHECK(check_output(output.path, {.force = output.force}));
  PARE_TRY(const auto source, open_source(model_name, common));
  PARE_TRY(const ModelDescription model, describe_model(*source));
  const uint64_t expected = stored_bytes(*source);
  PARE_CHECK(check_output_model(*source, output, expected));
  uint64_t largest = 0;  // codes, the same in other words, and one set of rows of floats
  for (const StoredTensor& tensor : source->tensors()) {
    largest = std::max(largest, 4 * tensor.bytes + uint64_t(tensor.shape.numel()));
  }
  PARE_CHECK(check_memory(common, largest, "raise --max-memory"));
  const auto start = std::chrono::steady_clock::now();
  PARE_TRY(DialectPlan plan, dialect.plan({*source, model}));

  Json options = Json::object();
  options["format"] = dialect.name;
  PARE_TRY(Manifest manifest, start_manifest(*source, "export", std::move(options), common.seed));
  manifest.tensors = records_of(*source, model);
  PARE_TRY(const auto sink, open_dialect_output(*source, output, expected, plan));
  {
    Progress progress("export", int64_t(model.tensors.size()), "tensors");
    for (const TensorSpec& spec : model.tensors) {
      PARE_TRY(const WeightData data, source->load(spec.name));
      PARE_CHECK(sink->put(spec.name, data));
      source->release(spec.name);
      progress.advance();
    }
  }
  PARE_CHECK(source->check_unchanged());
  PARE_CHECK(sink->finish(manifest));
  Outcome outcome;
  outcome.tensors = model.tensors.size();
  PARE_TRY(outcome.bytes, bytes_on_disk(output.path));
  PARE_TRY(const auto written, open_model(output.path));
  PARE_TRY(outcome.difference, forward_difference(source, written, device));
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  report(model_name, dialect, plan, output.path, outcome, common);
  return Exit::ok;
}

}  // namespace pare::cli
