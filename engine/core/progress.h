// engine/core/progress.h: one line on a terminal that says how far a long step is; silent elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

namespace pare {

// One line of any text that is redrawn in place, under the same rules as Progress: at most ten times a
// second, only on a terminal, silent with -q and with JSON messages.
class StatusLine {
 public:
  StatusLine();
  ~StatusLine();
  StatusLine(const StatusLine&) = delete;
  StatusLine& operator=(const StatusLine&) = delete;

  bool is_visible() const { return is_visible_; }
  // `text` is called when it is time to draw.
  void show(const std::function<std::string()>& text);
  void finish();  // erases it

 private:
  bool is_visible_;
  std::chrono::steady_clock::time_point last_draw_;
};

// Shows `label  43% 12/28 blocks  3.1 blocks/s  6 s left`. Redraws at most ten times a second, only when
// stderr is a terminal and the log level is not quiet; erased by finish() or the destructor.
class Progress {
 public:
  Progress(std::string label, int64_t total, std::string unit);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void advance(int64_t amount = 1);
  void finish();

 private:
  void draw();

  std::string label_;
  std::string unit_;
  int64_t total_;
  int64_t done_ = 0;
  bool visible_;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_draw_;
};

}  // namespace pare
