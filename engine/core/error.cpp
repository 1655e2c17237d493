#include "engine/core/error.h"

#include "engine/core/json.h"
#include "engine/core/limits.h"
#include "engine/core/printable.h"

namespace pare {
namespace {

constexpr std::string_view kEllipsis = "\xe2\x80\xa6";

}  // namespace

std::string format_error(const Error& error) {
  std::string line;
  for (const std::string* part : {&error.path, &error.where}) {
    if (!part->empty()) line += *part + ": ";
  }
  line += error.what;
  if (!error.got.empty() || !error.limit.empty()) {
    line += " (";
    if (!error.got.empty()) line += "got " + error.got;
    if (!error.got.empty() && !error.limit.empty()) line += ", ";
    if (!error.limit.empty()) line += std::string(error.limit_label) + " " + error.limit;
    line += ")";
  }
  // Names from files were quoted where they were taken, with their backslashes doubled; here only what could
  // still break the line is escaped. The prefix that main prints and the newline count as well.
  constexpr std::string_view kPrefix = "pare: error: ";
  constexpr size_t kRoom = limits::kErrorLineBytes - kPrefix.size() - kEllipsis.size() - 1;
  std::string printable;
  if (!append_printable(printable, line, Backslash::kept, kRoom)) printable += kEllipsis;
  return printable;
}

std::string format_error_json(const Error& error) {
  // Printable form first, so that a log reader that decodes the JSON cannot be steered either.
  const auto printable = [](const std::string& text) {
    std::string out;
    if (!append_printable(out, text, Backslash::kept, limits::kErrorLineBytes / 8)) out += kEllipsis;
    return out;
  };
  Json json = Json::object();
  json["level"] = "error";
  json["exit"] = static_cast<int>(error.exit);
  json["rule"] = error.rule;
  json["path"] = printable(error.path);
  json["where"] = printable(error.where);
  json["what"] = printable(error.what);
  json["got"] = printable(error.got);
  json["limit"] = printable(error.limit);
  return json.dump();
}

}  // namespace pare
