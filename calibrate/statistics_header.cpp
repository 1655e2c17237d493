// The header of stored statistics as JSON text.
#include <fmt/core.h>

#include "calibrate/statistics_tensors.h"
#include "engine/core/json.h"
#include "engine/core/limits.h"
#include "engine/core/text.h"

namespace pare {
namespace {

constexpr int64_t kVersion = 1;

Error header_error(const std::string& path, std::string where, std::string what, std::string got = {},
                   std::string expected = {}) {
  return Error{.exit = Exit::malformed,
               .rule = "IM06",
               .path = path,
               .where = std::move(where),
               .what = std::move(what),
               .got = std::move(got),
               .limit = std::move(expected),
               .limit_label = "expected"};
}

// Fields of one JSON object, with errors that name path and field.
struct Reader {
  const Json& json;
  const std::string& path;
  std::string prefix{};

  Result<const Json*> field(const char* key) const {
    const Json* found = json.find(key);
    if (found == nullptr) return header_error(path, prefix + key, "missing");
    return found;
  }
  Result<std::string> text(const char* key) const {
    PARE_TRY(const Json* found, field(key));
    if (!found->is_string()) return header_error(path, prefix + key, "not a string", found->kind_name());
    return found->as_string();
  }
  Result<int64_t> count(const char* key, int64_t limit) const {
    PARE_TRY(const Json* found, field(key));
    if (found->kind() != Json::Kind::integer || found->as_int() < 0 || found->as_int() > limit) {
      return header_error(path, prefix + key, "not a number in range",
                          found->is_integer() ? found->dump() : found->kind_name(),
                          fmt::format("0 to {}", limit));
    }
    return found->as_int();
  }
};

constexpr int64_t kLargestCount = int64_t(1) << 48;

Result<Site> parse_site_name(const std::string& name, const std::string& path, const std::string& where) {
  for (const Site site :
       {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_out, Site::head_in}) {
    if (site_name(site) == name) return site;
  }
  return header_error(path, where, "unknown site", quote(name));
}

Result<std::vector<SiteEntry>> parse_sites(const Json& list, const std::string& path) {
  std::vector<SiteEntry> sites;
  for (size_t i = 0; i < list.size(); ++i) {
    const Reader reader{list[i], path, fmt::format("sites[{}].", i)};
    SiteEntry entry;
    PARE_TRY(const int64_t block, reader.count("block", int64_t(limits::kLayers)));
    entry.block = int(block);
    PARE_TRY(const std::string name, reader.text("site"));
    PARE_TRY(entry.site, parse_site_name(name, path, reader.prefix + "site"));
    PARE_TRY(entry.channels, reader.count("channels", int64_t(limits::kHiddenSize)));
    if (entry.channels == 0) return header_error(path, reader.prefix + "channels", "no channels", "0");
    if (!sites.empty() &&
        std::pair(sites.back().block, sites.back().site) >= std::pair(entry.block, entry.site)) {
      return header_error(path, reader.prefix + "site", "sites are not in execution order",
                          fmt::format("{} {}", entry.block, name));
    }
    sites.push_back(entry);
  }
  return sites;
}

}  // namespace

std::string statistics_header_text(const StatisticsHeader& header) {
  Json json = Json::object();
  json["version"] = Json(kVersion);
  json["model_hash"] = header.origin.model_hash;
  json["token_hash"] = header.origin.token_hash;
  json["text_hash"] = header.origin.text_hash;
  json["seed"] = Json(header.origin.seed);
  json["samples"] = Json(header.origin.samples);
  json["context"] = Json(header.origin.context);
  json["first_window"] = Json(header.windows.begin);
  json["end_window"] = Json(header.windows.end);
  Json collected = Json::array(), sites = Json::array();
  for (const Statistic statistic : kAllStatistics) {
    if (header.collected.has(statistic)) collected.push_back(Json(statistic_name(statistic)));
  }
  json["collected"] = std::move(collected);
  for (const SiteEntry& entry : header.sites) {
    Json site = Json::object();
    site["block"] = Json(entry.block);
    site["site"] = Json(site_name(entry.site));
    site["channels"] = Json(entry.channels);
    sites.push_back(std::move(site));
  }
  json["sites"] = std::move(sites);
  return json.dump();
}

Result<StatisticsHeader> parse_statistics_header(std::string_view text, const std::string& path) {
  PARE_TRY(const Json json, parse_json(text, path, {.max_bytes = limits::kConfigBytes}, "IM06"));
  const Reader reader{json, path};
  PARE_TRY(const int64_t version, reader.count("version", INT64_MAX));
  if (version != kVersion) {
    Error error = header_error(path, "version", "statistics of another version of the format",
                               fmt::format("{}", version), fmt::format("{}", kVersion));
    error.exit = Exit::unsupported;
    return error;
  }
  StatisticsHeader header;
  PARE_TRY(header.origin.model_hash, reader.text("model_hash"));
  PARE_TRY(header.origin.token_hash, reader.text("token_hash"));
  PARE_TRY(header.origin.text_hash, reader.text("text_hash"));
  PARE_TRY(const Json* seed, reader.field("seed"));
  if (!seed->is_integer() || (seed->kind() == Json::Kind::integer && seed->as_int() < 0)) {
    return header_error(path, "seed", "not a number in range", seed->dump(), "0 to 2^64 - 1");
  }
  header.origin.seed = seed->as_uint();
  PARE_TRY(header.origin.samples, reader.count("samples", kLargestCount));
  PARE_TRY(header.origin.context, reader.count("context", kLargestCount));
  PARE_TRY(header.windows.begin, reader.count("first_window", kLargestCount));
  PARE_TRY(header.windows.end, reader.count("end_window", header.origin.samples));
  if (header.windows.begin > header.windows.end) {
    return header_error(path, "first_window", "beyond end_window", fmt::format("{}", header.windows.begin),
                        fmt::format("{}", header.windows.end));
  }
  PARE_TRY(const Json* collected, reader.field("collected"));
  if (!collected->is_array()) return header_error(path, "collected", "not an array", collected->kind_name());
  for (const Json& name : collected->items()) {
    auto statistic = parse_statistic(name.is_string() ? name.as_string() : name.dump());
    if (!statistic) return header_error(path, "collected", "unknown statistic", statistic.error().got);
    header.collected.add(*statistic);
  }
  PARE_TRY(const Json* sites, reader.field("sites"));
  if (!sites->is_array()) return header_error(path, "sites", "not an array", sites->kind_name());
  PARE_TRY(header.sites, parse_sites(*sites, path));
  return header;
}

}  // namespace pare
