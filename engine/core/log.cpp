#include "engine/core/log.h"

#include <atomic>
#include <string>

#include "engine/core/json.h"
#include "engine/core/printable.h"
#include "engine/core/stderr_line.h"

namespace pare {
namespace {

std::atomic<LogLevel> current_level{LogLevel::warning};
std::atomic<bool> json_lines{false};

void log_line(LogLevel level, const char* name, std::string_view message) {
  if (log_level() < level) return;
  std::string line;
  append_printable(line, message, Backslash::kept, std::string::npos);
  if (json_lines) {
    Json json = Json::object();
    json["level"] = name;
    json["message"] = line;
    line = json.dump();
  } else {
    line = std::string("pare: ") + name + ": " + line;
  }
  write_stderr_line(line);
}

}  // namespace

void set_log_options(const LogOptions& options) {
  current_level = options.level;
  json_lines = options.json;
}

LogLevel log_level() {
  return current_level;
}
bool log_is_json() {
  return json_lines;
}

void log_warning(std::string_view message) {
  log_line(LogLevel::warning, "warning", message);
}
void log_info(std::string_view message) {
  log_line(LogLevel::info, "info", message);
}
void log_debug(std::string_view message) {
  log_line(LogLevel::debug, "debug", message);
}

}  // namespace pare
