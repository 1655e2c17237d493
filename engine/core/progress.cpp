#include "engine/core/progress.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "engine/core/log.h"
#include "engine/core/stderr_line.h"
#include "engine/core/text.h"

namespace pare {
namespace {

constexpr std::chrono::milliseconds kRedrawInterval{100};

bool stderr_is_watched() {
  return ::isatty(STDERR_FILENO) == 1 && log_level() != LogLevel::quiet && !log_is_json();
}

}  // namespace

StatusLine::StatusLine()
    : is_visible_(stderr_is_watched()), last_draw_(std::chrono::steady_clock::now() - kRedrawInterval) {}

StatusLine::~StatusLine() {
  finish();
}

void StatusLine::show(const std::function<std::string()>& text) {
  const auto now = std::chrono::steady_clock::now();
  if (!is_visible_ || now - last_draw_ < kRedrawInterval) return;
  last_draw_ = now;
  write_progress_line(sanitize(text()));
}

void StatusLine::finish() {
  if (is_visible_) write_progress_line({});
}

Progress::Progress(std::string label, int64_t total, std::string unit)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      visible_(stderr_is_watched()),
      start_(std::chrono::steady_clock::now()),
      last_draw_(start_ - kRedrawInterval) {
  draw();
}

Progress::~Progress() {
  finish();
}

void Progress::advance(int64_t amount) {
  done_ += amount;
  draw();
}

void Progress::finish() {
  if (std::exchange(visible_, false)) write_progress_line({});
}

void Progress::draw() {
  const auto now = std::chrono::steady_clock::now();
  if (!visible_ || now - last_draw_ < kRedrawInterval) return;
  last_draw_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double rate = seconds > 0 ? static_cast<double>(done_) / seconds : 0;
  const int64_t percent = total_ > 0 ? std::min<int64_t>(100, done_ * 100 / total_) : 0;
  std::string line = fmt::format("{}  {}% {}/{} {}", sanitize(label_), percent, done_, total_, unit_);
  if (done_ > 0 && done_ < total_) {
    line += fmt::format("  {:.1f} {}/s  {} left", rate, unit_,
                        format_duration(static_cast<double>(total_ - done_) / rate));
  }
  write_progress_line(line);
}

}  // namespace pare
