// engine/run/stop_filter.h: lets generated text through, but never a stop string or the beginning of one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace pare {

// The text ends before the stop string that is complete first; of several that end together the longest
// counts. This does not depend on how the text is cut into pieces.
class StopFilter {
 public:
  // Strings must not be empty.
  explicit StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // Adds a piece and returns what is certain not to belong to a stop string. Nothing more comes once
  // stopped().
  std::string push(std::string_view piece);
  // What was held back, when the text ends without a stop string.
  std::string flush();
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string pending_;
  bool stopped_ = false;
};

}  // namespace pare
