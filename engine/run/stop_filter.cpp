#include "engine/run/stop_filter.h"

#include <algorithm>
#include <utility>

namespace pare {

std::string StopFilter::push(std::string_view piece) {
  if (stopped_) return {};
  pending_ += piece;
  size_t end = std::string::npos, begin = 0;
  for (const std::string& stop : stops_) {
    const size_t found = pending_.find(stop);
    if (found == std::string::npos) continue;
    const size_t stop_end = found + stop.size();
    if (stop_end > end || (stop_end == end && found >= begin)) continue;
    end = stop_end;
    begin = found;
  }
  if (end != std::string::npos) {
    stopped_ = true;
    return std::exchange(pending_, {}).substr(0, begin);
  }
  // The longest tail that could still become a stop string stays here.
  size_t held = 0;
  for (const std::string& stop : stops_) {
    for (size_t length = std::min(stop.size() - 1, pending_.size()); length > held; --length) {
      if (std::string_view(pending_).ends_with(std::string_view(stop).substr(0, length))) held = length;
    }
  }
  std::string certain = pending_.substr(0, pending_.size() - held);
  pending_.erase(0, pending_.size() - held);
  return certain;
}

std::string StopFilter::flush() {
  return std::exchange(pending_, {});
}

}  // namespace pare
