#include "engine/core/stderr_line.h"

#include <unistd.h>

#include <cerrno>
#include <mutex>
#include <string>

namespace pare {
namespace {

std::mutex stderr_mutex;
bool progress_drawn = false;  // guarded by stderr_mutex

constexpr std::string_view kErase = "\r\x1b[2K";

void write_all(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace

void write_stderr_line(std::string_view line) {
  const std::lock_guard lock(stderr_mutex);
  std::string text;
  if (progress_drawn) text += kErase;
  text += line;
  text += '\n';
  progress_drawn = false;
  write_all(text);
}

void write_progress_line(std::string_view line) {
  const std::lock_guard lock(stderr_mutex);
  if (line.empty() && !progress_drawn) return;
  write_all(std::string(kErase).append(line));
  progress_drawn = !line.empty();
}

}  // namespace pare
