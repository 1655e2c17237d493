// engine/core/open_below.h: opening a name from a file without leaving the model directory; internal to core.
#pragma once

#include <fcntl.h>

#include <string>

#include "engine/core/result.h"

namespace pare {

// O_NONBLOCK: a FIFO gives an error, not a hang.
inline constexpr int kInputFlags = O_RDONLY | O_NONBLOCK | O_NOCTTY;

// A descriptor of `name` below `root`, of any file type. `shown` stands in error messages.
Result<int> open_descriptor_below(const std::string& root, const std::string& name, const std::string& shown,
                                  bool follow_symlinks);

}  // namespace pare
