#include "formats/tensorboard/event_file.h"

#include <fmt/core.h>

#include "engine/core/folder.h"

namespace pare {

Result<EventFile> EventFile::create(const std::string& folder, double wall_time) {
  PARE_CHECK(make_folders(folder));
  // Ten digits, for names sort by time. The machine's name, which others put here, is nobody's business.
  for (int n = 0;; ++n) {
    auto file = AppendFile::create(
        fmt::format("{}/events.out.tfevents.{:010}.pare.{}", folder, int64_t(wall_time), n));
    if (!file && file.error().rule == "CL02" && n < 1000) continue;
    if (!file) return file.error();
    EventFile events(*std::move(file));
    PARE_CHECK(events.file_.append(framed(version_event(wall_time))));
    return events;
  }
}

Status EventFile::scalars(double wall_time, int64_t step, std::span<const Scalar> scalars) {
  return file_.append(framed(scalar_event(wall_time, step, scalars)));
}

Status EventFile::text(double wall_time, int64_t step, std::string_view tag, std::string_view text) {
  return file_.append(framed(text_event(wall_time, step, tag, text)));
}

Status EventFile::session_start(double wall_time, int64_t step) {
  return file_.append(framed(session_start_event(wall_time, step)));
}

}  // namespace pare
