// formats/tensorboard/event_file.h: a file of TensorBoard events that grows while a run trains
// (docs/training.md). Its reader follows files while they are written, so every event is written at once.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "engine/core/append_file.h"
#include "formats/tensorboard/event.h"

namespace pare {

class EventFile {
 public:
  // Makes `folder` if it is missing, and in it `events.out.tfevents.<seconds>.pare.<n>` with the smallest n
  // that is free: a run that is resumed gets a file of its own. Exit 5.
  static Result<EventFile> create(const std::string& folder, double wall_time);

  // wall_time: seconds since 1970. Exit 5.
  Status scalars(double wall_time, int64_t step, std::span<const Scalar> scalars);
  Status text(double wall_time, int64_t step, std::string_view tag, std::string_view text);
  Status session_start(double wall_time, int64_t step);

  const std::string& path() const { return file_.path(); }

 private:
  explicit EventFile(AppendFile file) : file_(std::move(file)) {}
  AppendFile file_;
};

}  // namespace pare
