#include "cli/quantize_options.h"

#include <CLI/CLI.hpp>

#include "cli/kv_option.h"
#include "engine/core/text.h"

namespace pare::cli {
namespace {

// A scheme that an option names; errors name the option.
Result<QuantScheme> parse_scheme(const char* option, const std::string& text) {
  auto scheme = QuantScheme::parse(text);
  if (!scheme) scheme.error().path = option;
  return scheme;
}

Result<Selection> make_selection(const QuantizeArguments& arguments) {
  Selection selection;
  PARE_TRY(selection.scheme, parse_scheme("--scheme", arguments.scheme));
  if (!arguments.embedding.empty()) {
    PARE_TRY(selection.embedding_scheme, parse_scheme("--embedding", arguments.embedding));
  }
  if (!arguments.head.empty()) {
    PARE_TRY(selection.head_scheme, parse_scheme("--head", arguments.head));
  }
  selection.include = arguments.include;
  selection.exclude = arguments.exclude;
  for (const std::string& text : arguments.overrides) {
    PARE_TRY(auto rule, parse_override(text));
    selection.overrides.push_back(std::move(rule));
  }
  return selection;
}

Status apply_clip(const QuantizeArguments& arguments, CalibratedOptions& options) {
  MethodPlan::Range& range = options.method.range;
  if (arguments.clip == "auto") return {};
  if (range != MethodPlan::Range::standard)
    return contradiction("--clip", "the method names a search of its own", arguments.method);
  if (arguments.clip == "none") range = MethodPlan::Range::min_max;
  if (arguments.clip == "mse") range = MethodPlan::Range::squared;
  if (arguments.clip == "importance") range = MethodPlan::Range::importance;
  if (arguments.clip == "p2.4") {
    options.quantize.clip_search = true;
    options.quantize.clip.power = 2.4;
  }
  return {};
}

bool has_static_activations(const QuantizeArguments& arguments) {
  return arguments.activations.starts_with("static");
}

Status apply_activations(const QuantizeArguments& arguments, CalibratedOptions& options) {
  PARE_TRY(options.activation_range.observer, parse_range_observer(arguments.observer));
  if (arguments.activations == "none") return {};
  options.activations = has_static_activations(arguments) ? ActivationQuant::Mode::static_tensor
                                                          : ActivationQuant::Mode::dynamic_token;
  options.activation_range.is_symmetric = !arguments.activations.ends_with("-asym");
  return {};
}

}  // namespace

Result<QuantizeSettings> quantize_settings(const QuantizeArguments& arguments) {
  QuantizeSettings settings;
  CalibratedOptions& options = settings.calibrated;
  PARE_TRY(options.method, parse_method(arguments.method));
  PARE_CHECK(apply_clip(arguments, options));
  PARE_CHECK(apply_activations(arguments, options));
  PARE_TRY(settings.selection, make_selection(arguments));
  options.quantize.clamp_scales = arguments.clamp;
  options.hessian.damping = arguments.damping;
  options.hessian.act_order = arguments.order == "act";
  options.gptq.block = arguments.block;
  options.gptq.static_groups = arguments.groups == "static";
  options.match_original = arguments.inputs == "both";
  if (arguments.alpha > 0.0) options.smooth_alpha = arguments.alpha;
  options.allow_fallback = arguments.allow_fallback;
  options.repair_rank = arguments.low_rank_repair;
  PARE_CHECK(check_job_arguments(arguments));
  if (arguments.target_bpw > 0.0 && !arguments.target_size.empty())
    return contradiction("--target-bpw", "cannot be given together with --target-size", "both");
  if (has_target(arguments) && arguments.data.empty())
    return contradiction(arguments.target_bpw > 0.0 ? "--target-bpw" : "--target-size",
                         "needs calibration data; give --data FILE", "no data");
  if (const auto size = parse_bytes(arguments.target_size);
      !arguments.target_size.empty() && (!size || *size == 0)) {
    return Error{.exit = Exit::usage,
                 .rule = "CL06",
                 .path = "--target-size",
                 .where = {},
                 .what = "not a size",
                 .got = quote(arguments.target_size),
                 .limit = "for example 80MB",
                 .limit_label = "expected"};
  }
  if (arguments.low_rank_repair > 0) {
    if (arguments.data.empty() && arguments.statistics.empty())
      return contradiction("--low-rank-repair", "needs calibration data; give --data FILE", "no data");
    if (!arguments.output.path.ends_with(".pare"))
      return contradiction("--low-rank-repair", "factors need a .pare output", arguments.output.path);
  }
  if (options.match_original && arguments.data.empty())
    return contradiction("--inputs", "both streams need data; give --data FILE", "both");
  const bool wants_data = options.method.needs_data() || has_static_activations(arguments);
  if (wants_data && arguments.data.empty() && arguments.statistics.empty())
    return contradiction(has_static_activations(arguments) ? "--activations" : "--method",
                         "needs calibration data; give --data FILE",
                         has_static_activations(arguments) ? arguments.activations : arguments.method);
  if (!is_calibrated(arguments, settings)) PARE_CHECK(check_no_job(arguments));
  return settings;
}

bool is_calibrated(const QuantizeArguments& arguments, const QuantizeSettings& settings) {
  return settings.calibrated.method.needs_data() || !arguments.data.empty() ||
         !arguments.statistics.empty() ||
         settings.calibrated.activations == ActivationQuant::Mode::static_tensor;
}

Json canonical_options(const QuantizeArguments& arguments, const QuantizeSettings& settings) {
  const Selection& selection = settings.selection;
  Json json = Json::object();
  json["method"] = settings.calibrated.method.text();
  json["scheme"] = selection.scheme.text();
  json["embedding"] = selection.embedding_scheme ? Json(selection.embedding_scheme->text()) : Json("keep");
  json["head"] = selection.head_scheme ? Json(selection.head_scheme->text()) : Json("keep");
  json["clip"] = arguments.clip;
  json["clamp"] = arguments.clamp;
  json["activations"] = arguments.activations;
  if (has_static_activations(arguments)) json["observer"] = arguments.observer;
  json["kv"] = arguments.kv.empty() ? "none" : arguments.kv;
  for (const auto& [key, values] :
       {std::pair{"include", &arguments.include}, std::pair{"exclude", &arguments.exclude},
        std::pair{"set", &arguments.overrides}}) {
    Json list = Json::array();
    for (const std::string& value : *values) list.push_back(Json(value));
    json[key] = std::move(list);
  }
  if (!is_calibrated(arguments, settings)) return json;
  json["samples"] = Json(arguments.samples);
  json["damping"] = arguments.damping;
  json["block"] = Json(arguments.block);
  json["order"] = arguments.order;
  json["groups"] = arguments.groups;
  json["inputs"] = arguments.inputs;
  json["alpha"] = arguments.alpha > 0.0 ? Json(arguments.alpha) : Json("searched");
  json["allow_fallback"] = arguments.allow_fallback;
  if (arguments.low_rank_repair > 0) json["low_rank_repair"] = Json(arguments.low_rank_repair);
  if (has_target(arguments)) {
    json["target_bpw"] = arguments.target_bpw;
    json["target_size"] = arguments.target_size;
    json["sensitivity"] = arguments.sensitivity;
  }
  return json;
}

namespace {

void add_selection_options(CLI::App& verb, QuantizeArguments& arguments) {
  const auto patterns = [&](const char* name, std::vector<std::string>& target, const char* help,
                            const char* type) {
    verb.add_option(name, target, help)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
        ->allow_extra_args(false)
        ->type_name(type);
  };
  verb.add_option("--embedding", arguments.embedding, "scheme of the token embedding (default: keep)")
      ->type_name("SCHEME");
  verb.add_option("--head", arguments.head, "scheme of a separate output head (default: keep)")
      ->type_name("SCHEME");
  patterns("--include", arguments.include, "only matrices whose name matches, for example 'layers.*.mlp.*'",
           "PATTERN");
  patterns("--exclude", arguments.exclude, "not the matrices whose name matches", "PATTERN");
  patterns("--set", arguments.overrides, "another scheme for some: 'layers.*.down_proj=int8', or '...=keep'",
           "PATTERN=SCHEME");
}

void add_calibration_options(CLI::App& verb, QuantizeArguments& arguments) {
  verb.add_option("--damping", arguments.damping,
                  "share of the mean diagonal added to the second moment (gptq)")
      ->check(CLI::Range(1e-8, 1e3))
      ->capture_default_str()
      ->type_name("X")
      ->group("Calibration");
  verb.add_option("--order", arguments.order, "columns by activity or as they stand (gptq): act, natural")
      ->check(CLI::IsMember({"act", "natural"}))
      ->capture_default_str()
      ->type_name("ORDER")
      ->group("Calibration");
  verb.add_option("--groups", arguments.groups,
                  "grids of groups fitted before or during the sweep (gptq): static, dynamic")
      ->check(CLI::IsMember({"static", "dynamic"}))
      ->capture_default_str()
      ->type_name("WHEN")
      ->group("Calibration");
  verb.add_option("--block-size", arguments.block, "columns between updates of the rest (gptq)")
      ->check(CLI::Range(int64_t{1}, int64_t{65536}))
      ->capture_default_str()
      ->type_name("N")
      ->group("Calibration");
  verb.add_option(
          "--inputs", arguments.inputs,
          "what each matrix makes up for: compressed (its own rounding), or both (also what its inputs "
          "lost before it; runs the original model beside)")
      ->check(CLI::IsMember({"compressed", "both"}))
      ->capture_default_str()
      ->type_name("STREAMS")
      ->group("Calibration");
  verb.add_option("--alpha", arguments.alpha,
                  "share of outliers moved into weights (smoothquant; default: searched)")
      ->check(CLI::Range(0.01, 0.99))
      ->type_name("X")
      ->group("Calibration");
  verb.add_option("--low-rank-repair", arguments.low_rank_repair,
                  "two 16-bit factors of this rank beside each rounded matrix, for what its output lost")
      ->check(CLI::Range(int64_t{1}, int64_t{65536}))
      ->type_name("RANK")
      ->group("Calibration");
  verb.add_flag("--allow-fallback", arguments.allow_fallback,
                "round to nearest where the method cannot work, and count it, instead of stopping")
      ->group("Calibration");
}

void add_target_options(CLI::App& verb, QuantizeArguments& arguments) {
  verb.add_option("--target-bpw", arguments.target_bpw,
                  "choose the format of each part so that linears take this many bits per weight, scales "
                  "included")
      ->check(CLI::Range(1.0, 32.0))
      ->type_name("BITS")
      ->group("Chosen bits");
  verb.add_option("--target-size", arguments.target_size, "the same for the bytes of all weights: 80MB")
      ->type_name("SIZE")
      ->group("Chosen bits");
  verb.add_option(
          "--sensitivity", arguments.sensitivity,
          "what formats are compared by: kl (divergence of the model's output; holds the whole model), "
          "or output (error of each part alone)")
      ->check(CLI::IsMember({"kl", "output"}))
      ->capture_default_str()
      ->type_name("COST")
      ->group("Chosen bits");
}

}  // namespace

void add_quantize_options(CLI::App& verb, QuantizeArguments& arguments) {
  add_model_options(verb, arguments);
  verb.add_option("--scheme", arguments.scheme,
                  "bits, granularity and symmetry: int8-ch, int4-g128, int4-g64-asym, int3-g32, nf4-g64, "
                  "fp8-e4m3-ch ...")
      ->capture_default_str()
      ->type_name("SCHEME");
  verb.add_option("--method", arguments.method,
                  "how codes are chosen: rtn (round to nearest), gptq, hqq, kmeans; before them awq or "
                  "smoothquant (channel scales); with a search of ranges mse or importance; joined by '+': "
                  "awq+gptq")
      ->capture_default_str()
      ->type_name("METHOD");
  verb.add_option("--clip", arguments.clip,
                  "search for a smaller range per group: auto (of the method), none, mse (squared error), "
                  "importance (weighted by the inputs) or p2.4")
      ->check(CLI::IsMember({"auto", "none", "mse", "importance", "p2.4"}))
      ->capture_default_str()
      ->type_name("SEARCH");
  verb.add_option("--activations", arguments.activations,
                  "INT8 products: none, dynamic (a scale per token), static (one per site, from the data); "
                  "-asym adds a zero "
                  "point")
      ->check(CLI::IsMember({"none", "dynamic", "static", "dynamic-asym", "static-asym"}))
      ->capture_default_str()
      ->type_name("MODE");
  verb.add_option("--observer", arguments.observer,
                  "range of static activations: minmax, moving-average, percentile, mse, entropy")
      ->capture_default_str()
      ->type_name("OBSERVER");
  add_kv_option(&verb, arguments.kv);
  add_selection_options(verb, arguments);
  verb.add_flag("--clamp", arguments.clamp,
                "clamp and count scales that their type cannot hold, instead of stopping");
  add_data_options(verb, arguments);
  add_calibration_options(verb, arguments);
  add_target_options(verb, arguments);
  add_report_options(verb, arguments);
  add_job_options(verb, arguments);
}

}  // namespace pare::cli
