#include "cli/prune_structured_plan.h"

#include <algorithm>

#include "cli/model_argument.h"
#include "cli/text_data.h"
#include "engine/core/hash.h"
#include "engine/core/memory.h"
#include "engine/core/text.h"
#include "evaluate/damage_json.h"

namespace pare::cli {
namespace {

Error bad_value(std::string option, std::string got, std::string expected) {
  return Error{.exit = Exit::usage,
               .rule = "CL12",
               .path = std::move(option),
               .where = {},
               .what = "not a value of this option",
               .got = std::move(got),
               .limit = std::move(expected),
               .limit_label = "expected"};
}

// "100M", "1.5B", "124439808".
Result<int64_t> parse_count(const std::string& text) {
  std::string number = text;
  double factor = 1.0;
  if (!number.empty()) {
    const char unit = number.back();
    if (unit == 'K' || unit == 'k') factor = 1e3;
    if (unit == 'M' || unit == 'm') factor = 1e6;
    if (unit == 'B' || unit == 'b' || unit == 'G' || unit == 'g') factor = 1e9;
    if (factor > 1.0) number.pop_back();
  }
  const auto value = parse_double(number);
  if (!value || *value <= 0.0 || *value * factor > 1e15)
    return bad_value("--params", quote(text), "a number of parameters: 100M, 1.5B");
  return int64_t(*value * factor);
}

Result<double> parse_share(const char* option, std::string text, bool may_end_in_x) {
  const std::string whole = text;
  if (may_end_in_x && !text.empty() && text.back() == 'x') text.pop_back();
  const auto value = parse_double(text);
  if (!value || *value < 0.0 || *value > 1.0)
    return bad_value(option, quote(whole), may_end_in_x ? "a share: 0.5x" : "a share: 0.25");
  return *value;
}

// Structures that sizes and --drop-layers speak of.
std::vector<Structure> implied(const StructuredArguments& arguments) {
  std::vector<Structure> found;
  if (arguments.layers > 0 || !arguments.drop_layers.empty()) found.push_back(Structure::layers);
  if (arguments.hidden > 0) found.push_back(Structure::hidden);
  if (arguments.heads > 0 || arguments.kv_heads > 0) found.push_back(Structure::heads);
  if (arguments.experts > 0) found.push_back(Structure::experts);
  if (arguments.intermediate > 0) found.push_back(Structure::mlp);
  if (!arguments.keep_corpus.empty()) found.push_back(Structure::vocabulary);
  return found;
}

Status set_scores(const StructuredArguments& arguments, bool has_data, StructuredPlan& plan) {
  StructuredOptions& options = plan.options;
  const UnitScore fallback = has_data ? UnitScore::activation : UnitScore::weight;
  options.mlp_score = options.head_score = options.hidden_score = options.expert_score = fallback;
  options.layer_score = UnitScore::influence;
  if (arguments.importance.empty()) return {};
  PARE_TRY(const UnitScore score, parse_unit_score(arguments.importance));
  const bool is_of_layers = score == UnitScore::influence || score == UnitScore::loss;
  const bool has_layers =
      std::find(plan.structures.begin(), plan.structures.end(), Structure::layers) != plan.structures.end();
  const bool has_others = plan.structures.size() > (has_layers ? 1u : 0u);
  if (is_of_layers && !has_layers)
    return bad_value("--importance", arguments.importance,
                     "a score of units; influence and loss are of layers");
  const bool is_of_all = score == UnitScore::weight || uses_gradients(score);
  if (!is_of_layers && has_layers && !has_others && !is_of_all)
    return bad_value("--importance", arguments.importance,
                     "a score of layers: influence, loss, weight, taylor, fisher");
  if (is_of_layers) {
    options.layer_score = score;
  } else {
    options.mlp_score = options.head_score = options.hidden_score = options.expert_score = score;
    if (score == UnitScore::weight && (!has_others || !has_data)) options.layer_score = score;
    if (uses_gradients(score)) options.layer_score = score;
  }
  return {};
}

Status set_layers(const StructuredArguments& arguments, int64_t layers, StructuredPlan& plan) {
  plan.options.keep_first = arguments.keep_first >= 0 ? arguments.keep_first : 4;
  plan.options.keep_last = arguments.keep_last >= 0 ? arguments.keep_last : 2;
  if (arguments.drop_layers.empty()) return {};
  std::vector<int64_t> dropped = arguments.drop_layers;
  std::sort(dropped.begin(), dropped.end());
  dropped.erase(std::unique(dropped.begin(), dropped.end()), dropped.end());
  for (const int64_t layer : dropped)
    if (layer < 0 || layer >= layers)
      return bad_value("--drop-layers", std::to_string(layer), "0 to " + std::to_string(layers - 1));
  if (int64_t(dropped.size()) == layers)
    return Error{.exit = Exit::numeric,
                 .rule = "NU15",
                 .path = "--drop-layers",
                 .where = "layers",
                 .what = "nothing would be left",
                 .got = "0",
                 .limit = "at least 1",
                 .limit_label = "need"};
  plan.options.dropped_layers = dropped;
  return {};
}

Status count_tokens(const StructuredArguments& arguments, const WeightSource& source, StructuredPlan& plan,
                    int64_t vocabulary) {
  plan.options.cut_vocabulary = true;
  plan.options.min_count = uint64_t(arguments.min_count);
  plan.options.multiple = arguments.multiple;
  if (arguments.keep_corpus.empty())
    return bad_value("--structure vocabulary", "no text", "--keep-corpus FILE, whose tokens stay");
  PARE_TRY(const auto tokenizer, load_tokenizer(source));
  PARE_TRY(const TextData text, read_text_data(arguments.keep_corpus));
  plan.options.token_counts.assign(size_t(vocabulary), 0);
  int64_t tokens = 0;
  for (const std::string& document : text.documents) {
    PARE_TRY(const std::vector<int32_t> ids,
             tokenizer->encode(document, {.add_special = true, .parse_special = true}));
    for (const int32_t id : ids)
      if (id >= 0 && id < int32_t(vocabulary)) ++plan.options.token_counts[size_t(id)];
    tokens += int64_t(ids.size());
  }
  const std::vector<uint64_t>& counts = plan.options.token_counts;
  plan.keep_corpus = Json::object();
  plan.keep_corpus["tokens"] = Json(tokens);
  plan.keep_corpus["hash"] = xxh3_128(std::string_view(reinterpret_cast<const char*>(counts.data()),
                                                       counts.size() * sizeof counts[0]))
                                 .hex();
  return {};
}

}  // namespace

bool is_structured(const StructuredArguments& arguments) {
  return !arguments.structure.empty() || !implied(arguments).empty() || !arguments.params.empty() ||
         !arguments.latency.empty();
}

Result<StructuredPlan> plan_structured(const StructuredArguments& arguments, const WeightSource& source,
                                       const ModelDescription& model, bool has_data) {
  StructuredPlan plan;
  if (!arguments.structure.empty()) {
    PARE_TRY(plan.structures, parse_structures(arguments.structure));
  }
  for (const Structure structure : implied(arguments)) {
    const bool is_there =
        std::find(plan.structures.begin(), plan.structures.end(), structure) != plan.structures.end();
    if (is_there) continue;
    if (!arguments.structure.empty())
      return contradiction("--structure", "a size is given of what --structure leaves out",
                           std::string(structure_name(structure)));
    plan.structures.push_back(structure);
  }
  if (plan.structures.empty())
    return bad_value("--structure", "none", "layers, hidden, experts, heads, mlp, vocabulary");
  std::sort(plan.structures.begin(), plan.structures.end());
  PARE_CHECK(check_structures(source, model, plan.structures));
  TargetRequest& target = plan.target;
  target.structures = plan.structures;
  target.multiple = arguments.multiple;
  target.head_units = arguments.head_units == "queries" ? HeadUnits::queries : HeadUnits::groups;
  if (!arguments.sparsity.empty()) {
    PARE_TRY(target.sparsity, parse_share("--sparsity", arguments.sparsity, false));
  }
  if (!arguments.params.empty()) {
    PARE_TRY(target.parameters, parse_count(arguments.params));
  }
  if (!arguments.latency.empty()) {
    PARE_TRY(target.latency, parse_share("--latency", arguments.latency, true));
  }
  const auto size = [](int64_t value) { return value > 0 ? std::optional(value) : std::nullopt; };
  target.hidden = size(arguments.hidden);
  target.intermediate = size(arguments.intermediate);
  target.layers = size(arguments.layers);
  target.heads = size(arguments.heads);
  target.kv_heads = size(arguments.kv_heads);
  target.experts = size(arguments.experts);
  PARE_TRY(const ModelShape before, shape_of(model.config, source.path()));
  PARE_CHECK(set_layers(arguments, before.layers, plan));
  if (plan.options.dropped_layers &&
      (target.layers || target.sparsity || target.parameters || target.latency))
    return contradiction("--drop-layers", "the layers are named; no other target can be given", "both");
  const bool only_vocabulary = plan.structures.size() == 1 && plan.structures[0] == Structure::vocabulary;
  const bool has_target = target.sparsity || target.parameters || target.latency || target.hidden ||
                          target.intermediate || target.layers || target.heads || target.kv_heads ||
                          target.experts || plan.options.dropped_layers;
  if (!has_target && !only_vocabulary)
    return bad_value("--structure", "no target", "--sparsity, --params, --latency, or sizes");
  PARE_CHECK(set_scores(arguments, has_data, plan));
  plan.options.repair = arguments.repair;
  plan.options.match_original = arguments.match_original;
  if (arguments.match_original && !arguments.repair)
    return contradiction("--match-original", "says what --repair fits to", "no --repair");
  plan.options.correct_norms = !arguments.keep_norms;
  plan.options.damping = arguments.damping;
  if (std::find(plan.structures.begin(), plan.structures.end(), Structure::vocabulary) !=
      plan.structures.end())
    PARE_CHECK(count_tokens(arguments, source, plan, before.vocabulary));
  plan.searches_time = target.latency.has_value();
  plan.options.sizes = before;
  if (plan.options.dropped_layers) {
    plan.options.sizes.layers -= int64_t(plan.options.dropped_layers->size());
  } else if (!plan.searches_time) {
    const LinearTime none = [](int64_t, int64_t) -> Result<double> { return 0.0; };
    PARE_TRY(plan.options.sizes, plan_shape(*model.architecture, model.config, target, none));
  }
  return plan;
}

Json structured_options_json(const StructuredArguments& arguments, const StructuredPlan& plan) {
  Json json = Json::object();
  Json names = Json::array();
  for (const Structure structure : plan.structures) names.push_back(Json(structure_name(structure)));
  json["structure"] = std::move(names);
  if (plan.target.sparsity) json["sparsity"] = *plan.target.sparsity;
  if (plan.target.parameters) json["params"] = Json(*plan.target.parameters);
  if (plan.target.latency) json["latency"] = *plan.target.latency;
  const auto size = [&](const char* key, const std::optional<int64_t>& value) {
    if (value) json[key] = Json(*value);
  };
  size("hidden", plan.target.hidden);
  size("intermediate", plan.target.intermediate);
  size("layers", plan.target.layers);
  size("heads", plan.target.heads);
  size("kv_heads", plan.target.kv_heads);
  size("experts", plan.target.experts);
  json["head_units"] = arguments.head_units;
  json["multiple"] = Json(arguments.multiple);
  Json& scores = json["importance"] = Json::object();
  for (const Structure structure : plan.structures) {
    if (structure == Structure::vocabulary) continue;
    const UnitScore score = structure == Structure::layers    ? plan.options.layer_score
                            : structure == Structure::hidden  ? plan.options.hidden_score
                            : structure == Structure::heads   ? plan.options.head_score
                            : structure == Structure::experts ? plan.options.expert_score
                                                              : plan.options.mlp_score;
    scores[structure_name(structure)] = Json(unit_score_name(score));
  }
  json["repair"] = plan.options.repair;
  json["match_original"] = plan.options.match_original;
  json["correct_norms"] = plan.options.correct_norms;
  json["damping"] = plan.options.damping;
  json["keep_first"] = Json(plan.options.keep_first);
  json["keep_last"] = Json(plan.options.keep_last);
  if (plan.options.dropped_layers) {
    Json dropped = Json::array();
    for (const int64_t layer : *plan.options.dropped_layers) dropped.push_back(Json(layer));
    json["drop_layers"] = std::move(dropped);
  }
  if (!plan.keep_corpus.is_null()) {
    json["keep_corpus"] = plan.keep_corpus;
    json["min_count"] = Json(int64_t(plan.options.min_count));
  }
  return json;
}

StructuredOutcome outcome_of(const WeightSource& source, const ModelDescription& model,
                             const ModelShape& after) {
  StructuredOutcome outcome;
  outcome.after = after;
  const ModelConfig cut = resized(model.config, after);
  if (const auto shape = shape_of(model.config, source.path()); shape) outcome.before = *shape;
  outcome.cost_before = cost_of(*model.architecture, model.config);
  outcome.cost_after = cost_of(*model.architecture, cut);
  outcome.bytes_before = stored_bytes(source);
  const double share =
      double(outcome.cost_after.parameters) / double(std::max<int64_t>(1, outcome.cost_before.parameters));
  outcome.bytes_after = uint64_t(double(outcome.bytes_before) * share);
  return outcome;
}

}  // namespace pare::cli
