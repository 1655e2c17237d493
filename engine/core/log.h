// engine/core/log.h: messages for people, on stderr. Data goes to stdout, and only from cli/.
#pragma once

#include <string_view>

namespace pare {

enum class LogLevel { quiet, warning, info, debug };  // -q, default, -v, -vv

struct LogOptions {
  LogLevel level = LogLevel::warning;
  bool json = false;  // one object per line
};

void set_log_options(const LogOptions& options);
LogLevel log_level();

// `pare: warning: ...`: accepted input only; never part of a rejected one.
void log_warning(std::string_view message);
void log_info(std::string_view message);   // shown with -v
void log_debug(std::string_view message);  // shown with -vv

}  // namespace pare
