#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>

#include "cli/commands.h"
#include "cli/model_argument.h"
#include "cli/output_model.h"
#include "engine/core/file.h"
#include "engine/core/memory.h"
#include "engine/core/progress.h"
#include "engine/core/signals.h"
#include "engine/core/text.h"
#include "quantize/selection.h"
#include "quantize/stream.h"

namespace pare::cli {
namespace {

struct Options {
  std::string model;
  OutputOptions output;
  std::string method = "rtn";
  std::string scheme = "int8-ch";
  std::string embedding, head;
  std::vector<std::string> include, exclude, overrides;
  std::string clip = "none";
  bool clamp = false;
  bool dry_run = false;
};

std::string number(double value, const char* format) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

Result<Selection> make_selection(const Options& options) {
  Selection selection;
  PARE_TRY(selection.scheme, QuantScheme::parse(options.scheme));
  if (!options.embedding.empty()) {
    PARE_TRY(selection.embedding_scheme, QuantScheme::parse(options.embedding));
  }
  if (!options.head.empty()) {
    PARE_TRY(selection.head_scheme, QuantScheme::parse(options.head));
  }
  selection.include = options.include;
  selection.exclude = options.exclude;
  for (const std::string& text : options.overrides) {
    PARE_TRY(auto rule, parse_override(text));
    selection.overrides.push_back(std::move(rule));
  }
  return selection;
}

// Options that decide the bytes of the output, defaults filled in; no paths.
Json canonical_options(const Options& options, const Selection& selection) {
  Json json = Json::object();
  json["method"] = options.method;
  json["scheme"] = selection.scheme.text();
  json["embedding"] = selection.embedding_scheme ? Json(selection.embedding_scheme->text()) : Json("keep");
  json["head"] = selection.head_scheme ? Json(selection.head_scheme->text()) : Json("keep");
  json["clip"] = options.clip;
  json["clamp"] = options.clamp;
  for (const auto& [key, values] :
       {std::pair{"include", &options.include}, std::pair{"exclude", &options.exclude},
        std::pair{"set", &options.overrides}}) {
    Json list = Json::array();
    for (const std::string& value : *values) list.push_back(Json(value));
    json[key] = std::move(list);
  }
  return json;
}

struct Outcome {
  QuantizePlan plan;
  uint64_t output_bytes = 0;
  double seconds = 0.0;
  const TensorRecord* worst = nullptr;
  int64_t clamped = 0;
};

Json to_json(const Options& options, const WeightSource& source, const Outcome& outcome,
             const Manifest& manifest, bool dry_run) {
  Json json = Json::object();
  json["schema_version"] = 1;
  json["command"] = "quantize";
  json["dry_run"] = dry_run;
  json["model"] = source.path();
  json["output"] = options.output.path;
  json["scheme"] = options.scheme;
  json["quantized_tensors"] = Json(outcome.plan.quantized_tensors);
  json["kept_tensors"] = Json(outcome.plan.kept_tensors);
  json["bits_per_weight"] = outcome.plan.bits_per_weight;
  json["weight_bytes_before"] = Json(outcome.plan.input_bytes);
  json["weight_bytes_after"] = Json(outcome.plan.output_bytes);
  json["peak_memory_estimate_bytes"] = Json(outcome.plan.peak_memory_bytes);
  if (dry_run) return json;
  json["output_bytes"] = Json(outcome.output_bytes);
  json["seconds"] = outcome.seconds;
  json["peak_resident_bytes"] = Json(peak_resident_bytes());
  json["fallbacks"] = Json(manifest.fallbacks());
  json["clamped_scales"] = Json(outcome.clamped);
  json["manifest"] = manifest.to_json();
  return json;
}

void print_plan(const Options& options, const QuantizePlan& plan, const Selection& selection) {
  print_line(options.model + " -> " + options.output.path);
  print_line("  " + std::to_string(plan.quantized_tensors) + " matrices to " + selection.scheme.text() +
             " by " + options.method + (selection.overrides.empty() ? "" : " (with exceptions)") + ", " +
             std::to_string(plan.kept_tensors) + " tensors kept");
  const double ratio = double(plan.input_bytes) / double(std::max<uint64_t>(1, plan.output_bytes));
  print_line("  weights " + format_bytes(plan.input_bytes) + " -> " + format_bytes(plan.output_bytes) + " (" +
             number(ratio, "%.2fx smaller") + "), " + number(plan.bits_per_weight, "%.3f") +
             " bits per quantized weight, scales included");
}

// Bytes per second that rounding has been seen to reach on one core; only for the estimate of --dry-run.
constexpr double kPlainBytesPerSecond = 400e6, kClippedBytesPerSecond = 8e6;

void print_dry_run(const Options& options, const QuantizePlan& plan) {
  print_line("  peak memory about " + format_bytes(plan.peak_memory_bytes) + " beyond the program itself");
  const double rate = options.clip == "none" ? kPlainBytesPerSecond : kClippedBytesPerSecond;
  print_line("  time about " + format_duration(double(plan.input_bytes) / rate) +
             "; nothing was written (--dry-run)");
}

void print_outcome(const Outcome& outcome, const Manifest& manifest, const Options& options) {
  print_line("  file " + format_bytes(outcome.output_bytes) + " in " + format_duration(outcome.seconds) +
             ", peak memory " + format_bytes(peak_resident_bytes()));
  if (outcome.worst != nullptr) {
    print_line("  largest error " + number(*outcome.worst->relative_error, "%.4f") + " (relative) in " +
               sanitize(outcome.worst->name));
  }
  print_line("pare: done: " + std::to_string(outcome.plan.quantized_tensors) +
             " matrices: " + std::to_string(outcome.plan.quantized_tensors) + " " + options.method + ", " +
             std::to_string(manifest.fallbacks()) + " fallback; " + std::to_string(outcome.clamped) +
             " scales clamped");
}

Outcome summarise(const QuantizePlan& plan, const Manifest& manifest) {
  Outcome outcome;
  outcome.plan = plan;
  for (const TensorRecord& record : manifest.tensors) {
    if (record.relative_error &&
        (outcome.worst == nullptr || *record.relative_error > *outcome.worst->relative_error)) {
      outcome.worst = &record;
    }
    if (const Json* clamped = record.extra.find("clamped_scales")) outcome.clamped += clamped->as_int();
  }
  return outcome;
}

Result<Exit> run_quantize(const Options& options, const CommonOptions& common) {
  PARE_CHECK(start_engine(common));
  PARE_TRY(const Device device, chosen_device(common));
  static_cast<void>(device);  // rounding gives the same bytes on every one there is
  PARE_TRY(const QuantizeMethod* method, find_quantize_method(options.method));
  PARE_TRY(const Selection selection, make_selection(options));
  PARE_CHECK(
      check_output(options.output.path, {.force = options.output.force}));  // before any input is touched
  PARE_TRY(const auto source, open_source(options.model, common));
  PARE_TRY(const ModelDescription model, describe_model(*source));
  PARE_TRY(const auto schemes, select_schemes(model, selection));
  const QuantizePlan plan = plan_quantization(*source, model, schemes);
  PARE_CHECK(check_memory(common, plan.peak_memory_bytes, "raise --max-memory"));
  PARE_CHECK(check_output_model(*source, options.output, plan.output_bytes));
  Manifest manifest;
  if (options.dry_run) {
    if (common.json) {
      print_json(to_json(options, *source, summarise(plan, manifest), manifest, true));
    } else {
      print_plan(options, plan, selection);
      print_dry_run(options, plan);
    }
    return Exit::ok;
  }

  const auto start = std::chrono::steady_clock::now();
  PARE_TRY(manifest, start_manifest(*source, "quantize", canonical_options(options, selection), common.seed));
  PARE_TRY(const auto sink, open_output_model(*source, options.output, plan.output_bytes));
  QuantizeOptions quantize;
  quantize.clip_search = options.clip != "none";
  quantize.clip.power = options.clip == "mse" ? 2.0 : 2.4;
  quantize.clamp_scales = options.clamp;
  {
    Progress progress("quantize", int64_t(plan.input_bytes >> 20), "MB");
    uint64_t done = 0;
    PARE_CHECK(
        quantize_stream(*source, model, schemes, *method, quantize, *sink, manifest, [&](uint64_t bytes) {
          progress.advance(int64_t(((done + bytes) >> 20) - (done >> 20)));
          done += bytes;
        }));
  }
  PARE_CHECK(sink->finish(manifest));
  Outcome outcome = summarise(plan, manifest);
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  PARE_TRY(outcome.output_bytes, bytes_on_disk(options.output.path));
  if (common.json) {
    print_json(to_json(options, *source, outcome, manifest, false));
  } else {
    print_plan(options, plan, selection);
    print_outcome(outcome, manifest, options);
  }
  return Exit::ok;
}

}  // namespace

void add_quantize(CLI::App& app, Commands& commands) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("quantize", "store weights in 8, 4 or fewer bits");
  verb->add_option("MODEL", options->model, "what to compress")->required();
  verb->add_option("-o,--output", options->output.path,
                   "where to write: NAME.pare, or a directory of safetensors")
      ->required()
      ->type_name("OUT");
  verb->add_option("--scheme", options->scheme,
                   "bits, granularity and symmetry: int8-ch, int4-g128, int4-g64-asym, int3-g32, nf4-g64, "
                   "fp8-e4m3-ch ...")
      ->capture_default_str()
      ->type_name("SCHEME");
  verb->add_option("--method", options->method, "how codes are chosen: rtn (round to nearest)")
      ->capture_default_str()
      ->type_name("METHOD");
  verb->add_option("--clip", options->clip,
                   "search for a smaller range per group: none, mse (squared error) or p2.4")
      ->check(CLI::IsMember({"none", "mse", "p2.4"}))
      ->capture_default_str()
      ->type_name("SEARCH");
  verb->add_option("--embedding", options->embedding, "scheme of the token embedding (default: keep)")
      ->type_name("SCHEME");
  verb->add_option("--head", options->head, "scheme of a separate output head (default: keep)")
      ->type_name("SCHEME");
  verb->add_option("--include", options->include,
                   "only matrices whose name matches, for example 'layers.*.mlp.*'")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false)
      ->type_name("PATTERN");
  verb->add_option("--exclude", options->exclude, "not the matrices whose name matches")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false)
      ->type_name("PATTERN");
  verb->add_option("--set", options->overrides,
                   "another scheme for some: 'layers.*.down_proj=int8', or '...=keep'")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false)
      ->type_name("PATTERN=SCHEME");
  verb->add_flag("--clamp", options->clamp,
                 "clamp and count scales that their type cannot hold, instead of stopping");
  verb->add_flag("--dry-run", options->dry_run, "say what would be written and what it would take, and stop");
  verb->add_flag("--force", options->output.force, "replace an existing output");
  add_common(verb, commands, true);
  verb->footer(
      "Example: pare quantize model/ --scheme int4-g64 --set 'layers.*.down_proj=int8' -o model-int4.pare");
  commands.on(verb, [options, &commands] { return run_quantize(*options, commands.common()); });
}

}  // namespace pare::cli
