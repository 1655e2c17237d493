#include "evaluate/run_report.h"

#include "engine/core/file.h"
#include "engine/core/hash.h"
#include "engine/core/limits.h"
#include "engine/core/version.h"
#include "evaluate/damage_json.h"
#include "evaluate/json_fields.h"

namespace pare {
namespace {

constexpr int64_t kSchemaVersion = 1;
constexpr const char* kKind = "pare-run-report";

Json texts_to_json(const std::vector<std::string>& texts) {
  Json json = Json::array();
  for (const std::string& text : texts) json.push_back(Json(text));
  return json;
}

Json curve_to_json(const RunReport& report) {
  Json points = Json::array();
  for (const CurvePoint& point : report.curve) {
    Json row = Json::object();
    row["bits_per_weight"] = point.bits_per_weight;
    row["loss"] = point.loss;
    row["chosen"] = point.chosen;
    points.push_back(std::move(row));
  }
  Json json = Json::object();
  json["unit"] = report.curve_unit;
  json["points"] = std::move(points);
  return json;
}

void read_curve(JsonFields& fields, std::string_view path, RunReport& report) {
  JsonFields curve(fields.object("curve"), path, "curve.");
  report.curve_unit = curve.text("unit");
  for (const Json& item : curve.array("points")) {
    JsonFields point(item, path, "curve.points.");
    report.curve.push_back({.bits_per_weight = point.real("bits_per_weight"),
                            .loss = point.real("loss"),
                            .chosen = point.flag("chosen")});
    curve.absorb(point.error());
  }
  fields.absorb(curve.error());
}

}  // namespace

Json to_json(const RunReport& report) {
  Json json = Json::object();
  json["schema_version"] = kSchemaVersion;
  json["kind"] = kKind;
  json["program_version"] = report.program_version.empty() ? std::string(kVersion) : report.program_version;
  json["command"] = report.command;
  json["command_line"] = texts_to_json(report.command_line);
  json["manifest_hash"] = report.manifest_hash;
  Json& run = json["run"] = Json::object();
  run["seconds"] = report.seconds;
  run["peak_resident_bytes"] = Json(report.peak_resident_bytes);
  if (report.peak_device_bytes > 0) run["peak_device_bytes"] = Json(report.peak_device_bytes);
  run["threads"] = Json(report.threads);
  run["cpu_profile"] = report.cpu_profile;
  run["resumes"] = Json(report.resumes);
  Json& sizes = json["sizes"] = Json::object();
  sizes["weight_bytes_before"] = Json(report.weight_bytes_before);
  sizes["weight_bytes_after"] = Json(report.weight_bytes_after);
  sizes["output_bytes"] = Json(report.output_bytes);
  json["warnings"] = texts_to_json(report.warnings);
  if (!report.curve.empty()) json["curve"] = curve_to_json(report);
  json["extra"] = report.extra;
  if (report.damage) json["damage"] = to_json(*report.damage);
  if (report.speed) json["speed"] = to_json(*report.speed);
  if (report.training) json["training"] = to_json(*report.training);
  return json;
}

Result<RunReport> run_report_from_json(const Json& json, std::string_view path) {
  RunReport report;
  JsonFields fields(json, path, "");
  const int64_t version = fields.count("schema_version");
  if (!fields.error() && version != kSchemaVersion) {
    return Error{.exit = Exit::unsupported,
                 .rule = "RP05",
                 .path = std::string(path),
                 .where = "schema_version",
                 .what = "unknown report version",
                 .got = std::to_string(version),
                 .limit = std::to_string(kSchemaVersion),
                 .limit_label = "expected"};
  }
  if (fields.text("kind") != kKind) fields.fail("kind", "RP04", "not a report of pare", {}, kKind);
  report.program_version = fields.text("program_version");
  report.command = fields.text("command");
  report.command_line = fields.texts("command_line");
  report.manifest_hash = fields.text("manifest_hash");
  JsonFields run(fields.object("run"), path, "run.");
  report.seconds = run.real("seconds");
  report.peak_resident_bytes = run.bytes("peak_resident_bytes");
  if (fields.object("run").find("peak_device_bytes") != nullptr)
    report.peak_device_bytes = run.bytes("peak_device_bytes");
  report.threads = run.count("threads");
  report.cpu_profile = run.text("cpu_profile");
  report.resumes = run.count("resumes");
  fields.absorb(run.error());
  JsonFields sizes(fields.object("sizes"), path, "sizes.");
  report.weight_bytes_before = sizes.bytes("weight_bytes_before");
  report.weight_bytes_after = sizes.bytes("weight_bytes_after");
  report.output_bytes = sizes.bytes("output_bytes");
  fields.absorb(sizes.error());
  report.warnings = fields.texts("warnings");
  report.extra = fields.object("extra");
  if (json.find("curve") != nullptr) read_curve(fields, path, report);
  if (fields.error()) return *std::move(fields.error());
  if (json.find("damage") != nullptr) {
    PARE_TRY(report.damage, damage_from_json(*json.find("damage"), path, "damage."));
  }
  if (json.find("speed") != nullptr) {
    PARE_TRY(report.speed, speed_from_json(*json.find("speed"), path, "speed."));
  }
  if (json.find("training") != nullptr) {
    PARE_TRY(report.training, training_curve_from_json(*json.find("training"), path, "training."));
  }
  return report;
}

std::string run_report_path(const std::string& output) {
  std::string path = output;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path + ".report.json";
}

std::string manifest_hash(const Manifest& manifest) {
  Manifest plain = manifest;
  plain.files = Json::array();
  return xxh3_128(plain.to_json().dump_sorted()).hex();  // a folder stores its keys sorted
}

Result<std::optional<RunReport>> read_run_report(const std::string& output) {
  const std::string path = run_report_path(output);
  if (!path_exists(path)) return std::optional<RunReport>();
  PARE_TRY(const std::string text, read_text_file(path, limits::kHeaderBytes));
  PARE_TRY(const Json json, parse_json(text, path, {.max_bytes = limits::kHeaderBytes}, "RP01"));
  PARE_TRY(RunReport report, run_report_from_json(json, path));
  return std::optional<RunReport>(std::move(report));
}

Status write_run_report(const std::string& output, const RunReport& report, bool force) {
  PARE_TRY(FileWriter writer, FileWriter::create(run_report_path(output), {.force = force}));
  PARE_CHECK(writer.write(to_json(report).dump(1) + "\n"));
  return writer.publish();
}

}  // namespace pare
