// engine/core/stderr_line.h: log lines and the progress line share stderr; internal to core.
#pragma once

#include <string_view>

namespace pare {

// Writes `line` and a newline in one piece, after erasing a progress line. Errors of stderr are ignored:
// there is no place left to report them.
void write_stderr_line(std::string_view line);

// Replaces the progress line; empty erases it.
void write_progress_line(std::string_view line);

// Whether messages are JSON objects (LogOptions::json).
bool log_is_json();

}  // namespace pare
