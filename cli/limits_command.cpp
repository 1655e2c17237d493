#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "engine/core/limits.h"
#include "engine/core/text.h"

namespace pare::cli {
namespace {

Result<Exit> run_limits(const CommonOptions& common) {
  if (common.json) {
    Json rows = Json::array();
    for (const limits::Limit& limit : limits::all()) {
      Json row = Json::object();
      row["name"] = limit.name;
      row["value"] = Json(limit.value);
      row["unit"] = limit.unit;
      row["exit"] = int(limit.exit);
      rows.push_back(std::move(row));
    }
    Json json = Json::object();
    json["schema_version"] = 1;
    json["limits"] = std::move(rows);
    print_json(json);
    return Exit::ok;
  }
  Table table({"limit", ">value", "unit", ">exit"});
  for (const limits::Limit& limit : limits::all()) {
    table.row({limit.name, format_count(limit.value), limit.unit, std::to_string(int(limit.exit))});
  }
  print(table.text(""));
  return Exit::ok;
}

}  // namespace

void add_limits(CLI::App& app, Commands& commands) {
  CLI::App* verb = app.add_subcommand("limits", "the caps on inputs, and the exit code of exceeding each");
  add_common(verb, commands, false);
  commands.on(verb, [&commands] { return run_limits(commands.common()); });
}

}  // namespace pare::cli
