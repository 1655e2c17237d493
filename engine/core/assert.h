// engine/core/assert.h: assertions about ourselves; never about input. They stay on in release builds.
#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <string>

namespace pare {

// Thrown by PARE_ASSERT; main prints `pare: error: internal: ...` and exits with 1. A fuzz build crashes.
class InternalError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

[[noreturn]] void assertion_failed(const char* file, int line, const std::string& message);

}  // namespace pare

// PARE_ASSERT(out.shape() == x.shape(), "[rms_norm] out {}, x {}", ...): message in fmt syntax.
#define PARE_ASSERT(condition, ...)                                             \
  do {                                                                          \
    if (!(condition)) [[unlikely]]                                              \
      ::pare::assertion_failed(__FILE__, __LINE__, ::fmt::format(__VA_ARGS__)); \
  } while (false)
