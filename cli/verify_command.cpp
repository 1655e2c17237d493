#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "engine/core/error.h"
#include "engine/core/text.h"
#include "formats/verify.h"

namespace pare::cli {
namespace {

Json to_json(const std::string& model, const VerifyReport& report) {
  Json faults = Json::array();
  for (const Error& fault : report.faults) {
    Json row = Json::object();
    row["exit"] = int(fault.exit);
    row["rule"] = fault.rule;
    row["where"] = fault.where;
    row["message"] = format_error(fault);
    faults.push_back(std::move(row));
  }
  Json json = Json::object();
  json["schema_version"] = 1;
  json["model"] = model;
  json["format"] = report.format;
  json["tensors"] = Json(report.tensors);
  json["bytes"] = Json(report.bytes);
  json["checksums"] = report.has_checksums;
  json["faults"] = std::move(faults);
  return json;
}

Result<Exit> run_verify(const std::string& model, const CommonOptions& common) {
  PARE_TRY(const VerifyReport report, verify_model(model));
  if (common.json) {
    print_json(to_json(model, report));
  } else {
    for (const Error& fault : report.faults) print_line(format_error(fault));
    const std::string state = !report.faults.empty() ? std::to_string(report.faults.size()) + " faults"
                              : report.has_checksums
                                  ? "verified"
                                  : "structure verified; contents unchecked (no checksums in it)";
    print_line(model + ": " + report.format + ", " + format_count(uint64_t(report.tensors)) + " tensors, " +
               format_bytes(report.bytes) + ": " + state);
  }
  if (report.faults.empty()) return Exit::ok;
  PARE_CHECK(flush_stdout());
  return report.faults.front();
}

}  // namespace

void add_verify(CLI::App& app, Commands& commands) {
  auto model = std::make_shared<std::string>();
  CLI::App* verb = app.add_subcommand("verify", "check every checksum, range and code of a model file");
  verb->add_option("MODEL", *model, "a .pare file, a model directory or a .safetensors file")->required();
  add_common(verb, commands, false);
  verb->footer("Lists every fault on stdout and ends with the exit code of the first.");
  commands.on(verb, [model, &commands] { return run_verify(*model, commands.common()); });
}

}  // namespace pare::cli
