#include "evaluate/damage_json.h"

#include <fmt/core.h>

#include "evaluate/json_fields.h"

namespace pare {
namespace {

constexpr int64_t kMostBlocks = int64_t(1) << 20;  // of a number that is only shown
constexpr Site kSites[] = {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_out};

Json counts_to_json(const std::vector<uint64_t>& counts) {
  Json json = Json::array();
  for (const uint64_t count : counts) json.push_back(Json(count));
  return json;
}

Json perplexity_to_json(const Perplexity& perplexity) {
  Json json = Json::object();
  json["perplexity"] = perplexity.value;
  json["perplexity_error"] = perplexity.error;
  json["perplexity_window_error"] = perplexity.window_error;
  json["mean_nll"] = perplexity.mean_nll;
  json["tokens"] = Json(perplexity.tokens);
  return json;
}

Perplexity perplexity_from(JsonFields fields, std::optional<Error>& error) {
  Perplexity perplexity;
  perplexity.value = fields.real("perplexity");
  perplexity.error = fields.real("perplexity_error");
  perplexity.window_error = fields.real("perplexity_window_error");
  perplexity.mean_nll = fields.real("mean_nll");
  perplexity.tokens = fields.count("tokens");
  error = fields.error();
  return perplexity;
}

// One list serves writing and reading, so that they cannot disagree.
struct DamageField {
  const char* key;
  double& (*get)(Damage& damage);
};
constexpr DamageField kDamageFields[] = {
    {"kl_mean", [](Damage& d) -> double& { return d.kl.value; }},
    {"kl_mean_error", [](Damage& d) -> double& { return d.kl.error; }},
    {"kl_median", [](Damage& d) -> double& { return d.kl_median; }},
    {"kl_p90", [](Damage& d) -> double& { return d.kl_p90; }},
    {"kl_p95", [](Damage& d) -> double& { return d.kl_p95; }},
    {"kl_p99", [](Damage& d) -> double& { return d.kl_p99; }},
    {"kl_p999", [](Damage& d) -> double& { return d.kl_p999; }},
    {"kl_max", [](Damage& d) -> double& { return d.kl_max; }},
    {"top1_agreement", [](Damage& d) -> double& { return d.top1_agreement.value; }},
    {"top1_agreement_error", [](Damage& d) -> double& { return d.top1_agreement.error; }},
    {"log_ratio", [](Damage& d) -> double& { return d.log_ratio; }},
    {"log_ratio_error", [](Damage& d) -> double& { return d.log_ratio_error; }},
    {"delta_perplexity", [](Damage& d) -> double& { return d.delta_perplexity; }},
    {"delta_perplexity_error", [](Damage& d) -> double& { return d.delta_perplexity_error; }},
    {"mean_probability_change", [](Damage& d) -> double& { return d.mean_probability_change; }},
    {"rms_probability_change", [](Damage& d) -> double& { return d.rms_probability_change; }},
};

Json worst_to_json(const WorstToken& worst) {
  Json json = Json::object();
  json["position"] = Json(worst.position);
  json["window"] = Json(worst.window);
  json["position_in_window"] = Json(worst.position_in_window);
  json["id"] = Json(int64_t(worst.id));
  json["context"] = worst.context;
  json["token"] = worst.token;
  json["original_best"] = worst.original_best;
  json["compressed_best"] = worst.compressed_best;
  json["kl"] = worst.kl;
  json["nll"] = worst.nll;
  json["original_nll"] = worst.original_nll;
  return json;
}

WorstToken worst_from(JsonFields& fields) {
  WorstToken worst;
  worst.position = fields.count("position");
  worst.window = fields.count("window");
  worst.position_in_window = fields.count("position_in_window");
  worst.id = int32_t(fields.integer("id", 0, INT32_MAX));
  worst.context = fields.text("context");
  worst.token = fields.text("token");
  worst.original_best = fields.text("original_best");
  worst.compressed_best = fields.text("compressed_best");
  worst.kl = fields.real("kl");
  worst.nll = fields.real("nll");
  worst.original_nll = fields.real("original_nll");
  return worst;
}

Json to_json(const MagnitudeHistogram& histogram) {
  Json json = Json::object();
  json["below"] = Json(histogram.below);
  json["above"] = Json(histogram.above);
  json["zeros"] = Json(histogram.zeros);
  json["largest"] = histogram.largest;
  json["square_sum"] = histogram.square_sum;
  json["counts"] = counts_to_json(histogram.counts);
  return json;
}

MagnitudeHistogram magnitudes_from(JsonFields fields, std::optional<Error>& error) {
  MagnitudeHistogram histogram;
  histogram.below = fields.bytes("below");
  histogram.above = fields.bytes("above");
  histogram.zeros = fields.bytes("zeros");
  histogram.largest = fields.real("largest");
  histogram.square_sum = fields.real("square_sum");
  histogram.counts = fields.counts("counts", MagnitudeHistogram::kBins);
  error = fields.error();
  return histogram;
}

Json to_json(const ValueHistogram& histogram) {
  Json json = Json::object();
  json["outside"] = Json(histogram.outside);
  json["largest"] = histogram.largest;
  json["counts"] = counts_to_json(histogram.counts);
  return json;
}

ValueHistogram values_from(JsonFields fields, double limit, std::optional<Error>& error) {
  ValueHistogram histogram;
  histogram.limit = limit;
  histogram.outside = fields.bytes("outside");
  histogram.largest = fields.real("largest");
  histogram.counts = fields.counts("counts", ValueHistogram::kBins);
  error = fields.error();
  return histogram;
}

Site site_from(JsonFields& fields) {
  const std::string name = fields.text("site");
  for (const Site site : kSites)
    if (site_name(site) == name) return site;
  fields.fail("site", "RP04", "unknown site", {}, "attn.in, attn.out, mlp.in or mlp.act");
  return Site::none;
}

// Both histograms of an entry, read by `read(fields, error)`.
template <typename Entry, typename Read>
void read_pair(JsonFields& fields, std::string_view path, Entry& entry, const Read& read) {
  std::optional<Error> error;
  entry.original = read(JsonFields(fields.object("original"), path, fields.where() + "original."), error);
  fields.absorb(error);
  entry.compressed =
      read(JsonFields(fields.object("compressed"), path, fields.where() + "compressed."), error);
  fields.absorb(error);
}

// Calls read(fields) for every object of a list.
template <typename Read>
void each(JsonFields& parent, std::string_view path, const char* key, const Read& read) {
  size_t index = 0;
  for (const Json& item : parent.array(key)) {
    JsonFields fields(item, path, fmt::format("{}{}[{}].", parent.where(), key, index++));
    if (!fields.error()) read(fields);
    parent.absorb(fields.error());
    if (parent.error()) return;
  }
}

}  // namespace

Json to_json(const DamageReport& report) {
  Json json = Json::object();
  Json& data = json["data"] = Json::object();
  data["source"] = report.source;
  data["token_hash"] = report.token_hash;
  data["windows"] = Json(report.windows);
  data["context"] = Json(report.context);
  data["input_tokens"] = Json(report.input_tokens);
  data["scored_tokens"] = Json(report.scored_tokens);
  json["original"] = perplexity_to_json(report.original);
  json["compressed"] = perplexity_to_json(report.compressed);
  Damage damage = report.damage;
  for (const DamageField& field : kDamageFields) json[field.key] = field.get(damage);
  Json worst = Json::array(), blocks = Json::array(), sites = Json::array(), weights = Json::array();
  for (const WorstToken& token : report.worst) worst.push_back(worst_to_json(token));
  for (const BlockDamage& block : report.blocks) {
    Json row = Json::object();
    row["block"] = Json(block.block);
    row["relative_error"] = block.relative_error;
    blocks.push_back(std::move(row));
  }
  for (const SiteDamage& site : report.sites) {
    Json row = Json::object();
    row["block"] = Json(site.block);
    row["site"] = site_name(site.site);
    row["original"] = to_json(site.original);
    row["compressed"] = to_json(site.compressed);
    sites.push_back(std::move(row));
  }
  for (const WeightDamage& weight : report.weights) {
    Json row = Json::object();
    row["name"] = weight.name;
    row["block"] = Json(weight.block);
    row["scheme"] = weight.scheme;
    row["limit"] = weight.original.limit;
    row["original"] = to_json(weight.original);
    row["compressed"] = to_json(weight.compressed);
    weights.push_back(std::move(row));
  }
  json["worst_tokens"] = std::move(worst);
  json["blocks"] = std::move(blocks);
  json["activations"] = std::move(sites);
  json["weights"] = std::move(weights);
  return json;
}

Result<DamageReport> damage_from_json(const Json& json, std::string_view path, const std::string& where) {
  DamageReport report;
  JsonFields fields(json, path, where);
  JsonFields data(fields.object("data"), path, where + "data.");
  report.source = data.text("source");
  report.token_hash = data.text("token_hash");
  report.windows = data.count("windows");
  report.context = data.count("context");
  report.input_tokens = data.count("input_tokens");
  report.scored_tokens = data.count("scored_tokens");
  fields.absorb(data.error());
  std::optional<Error> error;
  report.original = perplexity_from(JsonFields(fields.object("original"), path, where + "original."), error);
  fields.absorb(error);
  report.compressed =
      perplexity_from(JsonFields(fields.object("compressed"), path, where + "compressed."), error);
  fields.absorb(error);
  for (const DamageField& field : kDamageFields) field.get(report.damage) = fields.real(field.key);
  report.damage.kl.count = report.damage.top1_agreement.count = report.scored_tokens;
  each(fields, path, "worst_tokens", [&](JsonFields& item) { report.worst.push_back(worst_from(item)); });
  each(fields, path, "blocks", [&](JsonFields& item) {
    report.blocks.push_back(
        {.block = int(item.integer("block", 0, kMostBlocks)), .relative_error = item.real("relative_error")});
  });
  each(fields, path, "activations", [&](JsonFields& item) {
    SiteDamage site;
    site.block = int(item.integer("block", 0, kMostBlocks));
    site.site = site_from(item);
    read_pair(item, path, site, magnitudes_from);
    report.sites.push_back(std::move(site));
  });
  each(fields, path, "weights", [&](JsonFields& item) {
    WeightDamage weight;
    weight.name = item.text("name");
    weight.block = int(item.integer("block", -1, kMostBlocks));
    weight.scheme = item.text("scheme");
    const double limit = item.real("limit");
    read_pair(item, path, weight, [limit](JsonFields part, std::optional<Error>& failed) {
      return values_from(std::move(part), limit, failed);
    });
    report.weights.push_back(std::move(weight));
  });
  if (fields.error()) return *std::move(fields.error());
  return report;
}

}  // namespace pare
