#include "cli/prune_options.h"

#include <CLI/CLI.hpp>

#include "engine/core/text.h"

namespace pare::cli {
namespace {

bool is_pare_file(const std::string& path) {
  return path.ends_with(".pare");
}

Status check_combination(const PruneArguments& arguments, const PruneSettings& settings) {
  const bool has_data = !arguments.data.empty() || !arguments.statistics.empty();
  const PruneMethod method = settings.prune.method;
  const SparsityPattern::Kind kind = settings.selection.target.pattern.kind;
  const bool is_gradient = uses_gradients(method);
  if (is_gradient && arguments.data.empty())
    return contradiction("--method", "needs gradients of the loss on text; give --data FILE",
                         arguments.method);
  if (method != PruneMethod::taylor && !arguments.taylor_form.empty())
    return contradiction("--taylor-form", "belongs to --method taylor", arguments.method);
  if (method != PruneMethod::magnitude && !has_data)
    return contradiction("--method", "needs calibration data; give --data FILE", arguments.method);
  if (arguments.allocation != "uniform") {
    if (kind == SparsityPattern::Kind::n_of_m)
      return contradiction("--allocation", "an N:M pattern removes the same share everywhere",
                           arguments.allocation);
    const bool is_cut = arguments.allocation == "global" && (is_gradient || method == PruneMethod::magnitude);
    const bool by_data = !is_cut || is_gradient;
    if (by_data && arguments.data.empty())
      return contradiction("--allocation", "needs calibration data; give --data FILE", arguments.allocation);
    if (is_cut && (kind != SparsityPattern::Kind::unstructured || arguments.scope == "row"))
      return contradiction("--allocation", "one cut over all matrices is unstructured", arguments.sparsity);
    if (!by_data && has_data)
      return contradiction("--allocation", "a global cut by magnitude uses no data", arguments.allocation);
  }
  if (arguments.normalise != "none" && (arguments.allocation != "global" || method != PruneMethod::magnitude))
    return contradiction("--normalise", "belongs to --method magnitude --allocation global",
                         arguments.normalise);
  if (!arguments.scheme.empty() && method != PruneMethod::sparsegpt)
    return contradiction("--scheme",
                         "rounding while pruning belongs to --method sparsegpt; or quantize after",
                         arguments.method);
  if (arguments.low_rank_repair > 0 && !has_data)
    return contradiction("--low-rank-repair", "needs calibration data; give --data FILE", "no data");
  if (arguments.low_rank_repair > 0 && !is_pare_file(arguments.output.path))
    return contradiction("--low-rank-repair", "factors need a .pare output", arguments.output.path);
  if (arguments.order == "act" && kind != SparsityPattern::Kind::unstructured)
    return contradiction("--order", "patterns need the columns as they stand", arguments.sparsity);
  return {};
}

}  // namespace

Result<PruneSettings> prune_settings(const PruneArguments& arguments) {
  PruneSettings settings;
  PARE_CHECK(check_job_arguments(arguments));
  PARE_TRY(settings.prune.method, parse_prune_method(arguments.method));
  PARE_TRY(settings.selection.target,
           PruneTarget::parse(arguments.sparsity.empty() ? "0.5" : arguments.sparsity));
  settings.selection.include = arguments.include;
  settings.selection.exclude = arguments.exclude;
  for (const std::string& text : arguments.overrides) {
    PARE_TRY(auto rule, parse_prune_override(text));
    settings.selection.overrides.push_back(std::move(rule));
  }
  PARE_CHECK(check_combination(arguments, settings));
  if (settings.prune.method == PruneMethod::fisher) settings.gradient = GradientScore::fisher;
  if (settings.prune.method == PruneMethod::taylor) {
    PARE_TRY(settings.gradient,
             parse_taylor_form(arguments.taylor_form.empty() ? "per-sample" : arguments.taylor_form));
  }
  const bool is_wanda = settings.prune.method == PruneMethod::wanda;
  settings.prune.scope = arguments.scope.empty()    ? (is_wanda ? Scope::row : Scope::layer)
                         : arguments.scope == "row" ? Scope::row
                                                    : Scope::layer;
  settings.prune.hessian.damping = arguments.damping;
  settings.prune.hessian.act_order = arguments.order == "act";
  settings.prune.sparsegpt.block = arguments.block;
  settings.prune.sparsegpt.scope = settings.prune.scope;
  settings.prune.whole_block = arguments.calibrate == "block";
  settings.prune.allow_fallback = arguments.allow_fallback;
  settings.prune.allow_empty = arguments.allow_empty;
  settings.owl = {.threshold = arguments.owl_threshold, .lambda = arguments.owl_lambda};
  settings.is_compact = is_pare_file(arguments.output.path) && arguments.form == "auto";
  settings.stream.scope = settings.prune.scope;
  settings.stream.is_global =
      arguments.allocation == "global" && settings.prune.method == PruneMethod::magnitude;
  settings.stream.normalisation = arguments.normalise == "rms"    ? Normalisation::rms
                                  : arguments.normalise == "lamp" ? Normalisation::lamp
                                                                  : Normalisation::none;
  settings.stream.is_compact = settings.is_compact;
  settings.stream.allow_empty = arguments.allow_empty;
  settings.prune.repair_rank = arguments.low_rank_repair;
  settings.prune.is_compact = settings.is_compact;
  if (!arguments.scheme.empty()) {
    auto scheme = QuantScheme::parse(arguments.scheme);
    if (!scheme) {
      scheme.error().path = "--scheme";
      return scheme.error();
    }
    settings.scheme = *scheme;
  }
  if (!is_calibrated(arguments, settings)) PARE_CHECK(check_no_job(arguments));
  return settings;
}

bool is_calibrated(const PruneArguments& arguments, const PruneSettings& settings) {
  return settings.prune.method != PruneMethod::magnitude || !arguments.data.empty() ||
         !arguments.statistics.empty();
}

Json canonical_options(const PruneArguments& arguments, const PruneSettings& settings) {
  Json json = Json::object();
  json["method"] = std::string(prune_method_name(settings.prune.method));
  if (settings.prune.method == PruneMethod::taylor)
    json["taylor_form"] = std::string(gradient_score_name(*settings.gradient));
  json["sparsity"] = settings.selection.target.text();
  json["allocation"] = arguments.allocation;
  json["scope"] = settings.prune.scope == Scope::row ? "row" : "layer";
  if (settings.stream.is_global) json["normalise"] = arguments.normalise;
  for (const auto& [key, values] :
       {std::pair{"include", &arguments.include}, std::pair{"exclude", &arguments.exclude},
        std::pair{"set", &arguments.overrides}}) {
    Json list = Json::array();
    for (const std::string& value : *values) list.push_back(Json(value));
    json[key] = std::move(list);
  }
  json["form"] = settings.is_compact ? "auto" : "dense";
  json["allow_ragged"] = arguments.allow_ragged;
  json["allow_empty"] = arguments.allow_empty;
  if (!is_calibrated(arguments, settings)) return json;
  if (arguments.allocation == "owl") {
    json["owl_threshold"] = arguments.owl_threshold;
    json["owl_lambda"] = arguments.owl_lambda;
  }
  json["samples"] = Json(arguments.samples);
  json["calibrate"] = arguments.calibrate;
  json["allow_fallback"] = arguments.allow_fallback;
  if (arguments.low_rank_repair > 0) json["low_rank_repair"] = Json(arguments.low_rank_repair);
  if (settings.prune.method != PruneMethod::sparsegpt) return json;
  json["damping"] = arguments.damping;
  json["block"] = Json(arguments.block);
  json["order"] = arguments.order;
  json["scheme"] = settings.scheme ? Json(settings.scheme->text()) : Json("keep");
  json["clamp"] = arguments.clamp;
  return json;
}

namespace {

void add_selection_options(CLI::App& verb, PruneArguments& arguments) {
  const auto patterns = [&](const char* name, std::vector<std::string>& target, const char* help,
                            const char* type) {
    verb.add_option(name, target, help)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
        ->allow_extra_args(false)
        ->type_name(type);
  };
  patterns("--include", arguments.include, "only matrices whose name matches, for example 'layers.*.mlp.*'",
           "PATTERN");
  patterns("--exclude", arguments.exclude, "not the matrices whose name matches", "PATTERN");
  patterns("--set", arguments.overrides, "another sparsity for some: 'layers.*.down_proj=0.7', or '...=keep'",
           "PATTERN=SPARSITY");
}

void add_method_options(CLI::App& verb, PruneArguments& arguments) {
  const char* group = "Method";
  verb.add_option("--allocation", arguments.allocation,
                  "how the share is spread: uniform; owl (blocks with outliers keep more); global "
                  "(magnitude, taylor, "
                  "fisher: one cut over all matrices; else by the measured divergence of the model's output)")
      ->check(CLI::IsMember({"uniform", "owl", "global"}))
      ->capture_default_str()
      ->type_name("RULE")
      ->group(group);
  verb.add_option("--scope", arguments.scope,
                  "weights compete within a row or a matrix (default: row for wanda, else layer; for "
                  "sparsegpt within --block-size columns)")
      ->check(CLI::IsMember({"row", "layer"}))
      ->type_name("SCOPE")
      ->group(group);
  verb.add_option(
          "--taylor-form", arguments.taylor_form,
          "first (|w g|), per-sample (the same in each window; default), mixed (with the second order)")
      ->check(CLI::IsMember({"first", "per-sample", "mixed"}))
      ->type_name("FORM")
      ->group(group);
  verb.add_option("--normalise", arguments.normalise,
                  "scores of a global cut by magnitude: none, rms (relative to the matrix), lamp")
      ->check(CLI::IsMember({"none", "rms", "lamp"}))
      ->capture_default_str()
      ->type_name("HOW")
      ->group(group);
  verb.add_option("--owl-threshold", arguments.owl_threshold, "an outlier is that many times the mean score")
      ->check(CLI::Range(1.0, 1e6))
      ->capture_default_str()
      ->type_name("X")
      ->group(group);
  verb.add_option("--owl-lambda", arguments.owl_lambda, "half the width of the range of sparsities")
      ->check(CLI::Range(0.0, 0.5))
      ->capture_default_str()
      ->type_name("X")
      ->group(group);
  verb.add_option("--damping", arguments.damping,
                  "share of the mean diagonal added to the second moment (sparsegpt)")
      ->check(CLI::Range(1e-8, 1e3))
      ->capture_default_str()
      ->type_name("X")
      ->group(group);
  verb.add_option("--block-size", arguments.block, "columns whose weights are chosen together (sparsegpt)")
      ->check(CLI::Range(int64_t{1}, int64_t{65536}))
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
  verb.add_option("--order", arguments.order,
                  "columns as they stand or by activity (sparsegpt): natural, act")
      ->check(CLI::IsMember({"natural", "act"}))
      ->capture_default_str()
      ->type_name("ORDER")
      ->group(group);
  verb.add_option("--calibrate", arguments.calibrate,
                  "what statistics see: site (parts of the block before it pruned already), or block (the "
                  "block as it was, as the published code does)")
      ->check(CLI::IsMember({"site", "block"}))
      ->capture_default_str()
      ->type_name("WHEN")
      ->group(group);
  verb.add_option("--scheme", arguments.scheme,
                  "also round what is kept, in the same sweep (sparsegpt): int4-g64, int8-ch ...")
      ->type_name("SCHEME")
      ->group(group);
  verb.add_flag("--clamp", arguments.clamp,
                "with --scheme: clamp and count scales that their type cannot hold, instead of stopping")
      ->group(group);
  verb.add_flag("--allow-ragged", arguments.allow_ragged, "let N:M end in a part of a group")->group(group);
  verb.add_flag("--allow-empty", arguments.allow_empty, "let a matrix or a head lose all weights")
      ->group(group);
  verb.add_flag("--allow-fallback", arguments.allow_fallback,
                "prune by magnitude where the method cannot work, and count it, instead of stopping")
      ->group(group);
}

void add_low_rank_options(CLI::App& verb, PruneArguments& arguments) {
  const char* group = "Low rank";
  CLI::Option* option =
      verb.add_option("--low-rank", arguments.low_rank,
                      "two thin factors per matrix instead: energy=0.95 (of the output), rank=64, error=0.05 "
                      "(of the output), budget=0.7 (of the parameters); without data by the weights alone")
          ->type_name("RULE")
          ->group(group);
  CLI::Option* repair =
      verb.add_option("--low-rank-repair", arguments.low_rank_repair,
                      "factors of this rank beside each pruned matrix, for what its output lost")
          ->check(CLI::Range(int64_t{1}, int64_t{65536}))
          ->type_name("RANK")
          ->group(group);
  option->excludes(repair);
  for (const char* other : {"--method", "--sparsity", "--allocation", "--scope", "--normalise",
                            "--taylor-form", "--set", "--calibrate", "--scheme", "--form"})
    option->excludes(verb.get_option(other));
}

}  // namespace

void add_prune_options(CLI::App& verb, PruneArguments& arguments) {
  add_model_options(verb, arguments);
  verb.add_option(
          "--method", arguments.method,
          "what goes: magnitude (smallest weights), wanda (weight times input norm), sparsegpt (least "
          "error, the others make up for it), taylor (weight times gradient of the loss), fisher or obd "
          "(its second order)")
      ->capture_default_str()
      ->type_name("METHOD");
  verb.add_option("--sparsity", arguments.sparsity,
                  "share of weights to remove: 0.5; or N:M, keeping N of M neighbours: 2:4; or blocks: "
                  "0.5:block-16x16")
      ->default_str("0.5")
      ->type_name("SPARSITY");
  verb.add_option("--form", arguments.form,
                  "of matrices in a .pare file: auto (sparse where that is smaller), dense")
      ->check(CLI::IsMember({"auto", "dense"}))
      ->capture_default_str()
      ->type_name("FORM");
  add_selection_options(verb, arguments);
  add_method_options(verb, arguments);
  add_structured_options(verb, arguments.structured);
  add_low_rank_options(verb, arguments);
  add_data_options(verb, arguments);
  add_report_options(verb, arguments);
  add_job_options(verb, arguments);
}

}  // namespace pare::cli
