#include "cli/quantize_target.h"

#include <algorithm>
#include <map>

#include "engine/core/progress.h"
#include "engine/core/text.h"
#include "quantize/sensitivity.h"

namespace pare::cli {
namespace {

// Points of the curve that are kept: enough for a plot.
constexpr int64_t kCurvePoints = 64;

struct Sizes {
  uint64_t others = 0;     // bytes of what is not chosen
  int64_t parameters = 0;  // of what is
};

Sizes sizes_of(const QuantizeJob& job) {
  Sizes sizes;
  for (size_t i = 0; i < job.model.tensors.size(); ++i) {
    const TensorSpec& spec = job.model.tensors[i];
    const StoredTensor* stored = job.source->find(spec.name);
    if (stored == nullptr) continue;
    if (spec.is_linear && job.schemes[i]) {
      sizes.parameters += spec.shape.numel();
    } else {
      sizes.others += job.schemes[i] ? job.schemes[i]->stored_bytes(spec.out(), spec.in()) : stored->bytes;
    }
  }
  return sizes;
}

Result<uint64_t> budget_of(const QuantizeArguments& arguments, const Sizes& sizes) {
  if (arguments.target_size.empty()) return uint64_t(arguments.target_bpw * double(sizes.parameters) / 8.0);
  const auto bytes = parse_bytes(arguments.target_size);
  if (!bytes || *bytes == 0) {
    return Error{.exit = Exit::usage,
                 .rule = "CL06",
                 .path = "--target-size",
                 .where = {},
                 .what = "not a size",
                 .got = quote(arguments.target_size),
                 .limit = "for example 80MB",
                 .limit_label = "expected"};
  }
  if (*bytes <= sizes.others) {
    return Error{.exit = Exit::usage,
                 .rule = "CL13",
                 .path = "--target-size",
                 .where = {},
                 .what = "smaller than what is not compressed; --embedding and --head compress more",
                 .got = arguments.target_size,
                 .limit = format_bytes(sizes.others),
                 .limit_label = "need"};
  }
  return *bytes - sizes.others;
}

Json decision_json(const std::map<std::string, std::optional<QuantScheme>>& schemes,
                   const ChosenBits& chosen) {
  Json json = Json::object();
  Json list = Json::object();
  for (const auto& [name, scheme] : schemes) list[name] = scheme ? Json(scheme->text()) : Json("keep");
  json["schemes"] = std::move(list);
  Json curve = Json::array();
  for (const CurvePoint& point : chosen.curve) {
    Json entry = Json::array();
    entry.push_back(point.bits_per_weight);
    entry.push_back(point.loss);
    entry.push_back(point.chosen);
    curve.push_back(std::move(entry));
  }
  json["curve"] = std::move(curve);
  json["unit"] = chosen.unit;
  json["predicted"] = chosen.predicted;
  return json;
}

Error damaged_decision(const JobFolder& folder) {
  return Error{.exit = Exit::malformed,
               .rule = {},
               .path = folder.path(),
               .where = "decision",
               .what = "not a choice of formats; --restart begins anew",
               .got = {},
               .limit = {}};
}

Result<ChosenBits> apply_decision(const Json& decision, const JobFolder& folder,
                                  const ModelDescription& model,
                                  std::vector<std::optional<QuantScheme>>& schemes) {
  const Json* list = decision.find("schemes");
  const Json* curve = decision.find("curve");
  const Json* unit = decision.find("unit");
  const Json* predicted = decision.find("predicted");
  if (list == nullptr || !list->is_object() || curve == nullptr || !curve->is_array() || unit == nullptr ||
      !unit->is_string() || predicted == nullptr || !predicted->is_number())
    return damaged_decision(folder);
  for (size_t i = 0; i < model.tensors.size(); ++i) {
    const Json* text = list->find(model.tensors[i].name);
    if (text == nullptr) continue;
    if (!text->is_string()) return damaged_decision(folder);
    schemes[i].reset();
    if (text->as_string() == "keep") continue;
    PARE_TRY(schemes[i], QuantScheme::parse(text->as_string()));
  }
  ChosenBits chosen;
  chosen.unit = unit->as_string();
  chosen.predicted = predicted->as_double();
  for (const Json& point : curve->items()) {
    if (!point.is_array() || point.size() != 3 || !point[0].is_number() || !point[1].is_number() ||
        !point[2].is_bool())
      return damaged_decision(folder);
    chosen.curve.push_back({.bits_per_weight = point[0].as_double(),
                            .loss = point[1].as_double(),
                            .chosen = point[2].as_bool()});
  }
  return chosen;
}

// At most kCurvePoints of the curve, the chosen one among them.
std::vector<CurvePoint> thinned_curve(const Allocation& allocation, int64_t parameters) {
  std::vector<CurvePoint> curve;
  const auto count = int64_t(allocation.curve.size());
  const int64_t step = std::max<int64_t>(1, count / kCurvePoints);
  for (int64_t i = 0; i < count; ++i) {
    const AllocationPoint& point = allocation.curve[size_t(i)];
    const bool chosen = point.bytes == allocation.bytes;
    if (!chosen && i % step != 0 && i + 1 != count) continue;
    curve.push_back({.bits_per_weight = 8.0 * double(point.bytes) / double(parameters),
                     .loss = point.cost,
                     .chosen = chosen});
  }
  return curve;
}

QuantScheme probe_among(const std::vector<QuantScheme>& candidates) {
  for (const QuantScheme& scheme : candidates)
    if (scheme.bits == 3 && scheme.group_size == 64) return scheme;
  return candidates.front();
}

}  // namespace

Result<ChosenBits> choose_bits(const QuantizeArguments& arguments, const QuantizeJob& job, JobFolder& folder,
                               std::vector<std::optional<QuantScheme>>& schemes) {
  PARE_TRY(Json decision, job_decision(folder));
  if (decision.is_null()) {
    const Sizes sizes = sizes_of(job);
    PARE_TRY(const uint64_t budget, budget_of(arguments, sizes));
    std::map<std::string, QuantScheme> selected;
    int64_t shortest_row = INT64_MAX;
    for (size_t i = 0; i < job.model.tensors.size(); ++i) {
      const TensorSpec& spec = job.model.tensors[i];
      if (!spec.is_linear || !schemes[i]) continue;
      selected.emplace(spec.name, *schemes[i]);
      shortest_row = std::min(shortest_row, spec.in());
    }
    SensitivityOptions options;
    PARE_TRY(const QuantScheme like, QuantScheme::parse(arguments.scheme));
    options.candidates = candidate_schemes(like, shortest_row);
    options.probe = probe_among(options.candidates);
    options.measure_divergence = arguments.sensitivity == "kl";
    options.memory_limit = job.memory_limit;
    PipelineOptions pipeline;
    pipeline.memory_limit = job.memory_limit;
    pipeline.device = job.device;
    pipeline.device_limit = job.device_limit;
    pipeline.spill_folder = folder.path();
    Progress progress("measure",
                      job.windows.samples * job.windows.context * 4 * int64_t(job.model.config.block_count()),
                      "tokens");
    pipeline.advance = [&](int64_t tokens) {
      progress.advance(tokens);
      return job.advance(tokens);
    };
    PARE_TRY(const auto units,
             measure_sensitivity(
                 job.source, job.windows,
                 [&](const TensorSpec& spec) { return selected.find(spec.name) != selected.end(); }, options,
                 pipeline));
    progress.finish();
    std::vector<AllocationUnit> choices;
    for (const UnitSensitivity& unit : units) choices.push_back(unit.choices);
    PARE_TRY(const Allocation allocation, allocate_bits(choices, budget));
    ChosenBits chosen;
    chosen.curve = thinned_curve(allocation, sizes.parameters);
    chosen.unit =
        options.measure_divergence ? "predicted KL, nats per token" : "sum of relative squared errors";
    chosen.predicted = allocation.cost;
    decision = decision_json(chosen_schemes(units, allocation), chosen);
    PARE_CHECK(commit_decision(folder, decision));
  }
  return apply_decision(decision, folder, job.model, schemes);
}

void print_chosen_bits(const ChosenBits& chosen, const ModelDescription& model,
                       const std::vector<std::optional<QuantScheme>>& schemes) {
  Table curve({">bits per weight", std::string(">").append(chosen.unit), ""});
  const size_t step = std::max<size_t>(1, chosen.curve.size() / 12);
  for (size_t i = 0; i < chosen.curve.size(); ++i) {
    const CurvePoint& point = chosen.curve[i];
    if (!point.chosen && i % step != 0) continue;
    curve.row({formatted(point.bits_per_weight, "%.3f"), formatted(point.loss, "%.5f"),
               point.chosen ? "<- chosen" : ""});
  }
  print(curve.text());
  std::map<std::string, int64_t> formats;
  for (size_t i = 0; i < model.tensors.size(); ++i)
    if (model.tensors[i].is_linear) ++formats[schemes[i] ? schemes[i]->text() : "keep"];
  std::string line = "  chosen:";
  for (const auto& [name, count] : formats)
    line.append(" ").append(std::to_string(count)).append(" x ").append(name).append(",");
  line.pop_back();
  print_line(line);
}

}  // namespace pare::cli
