#include "engine/core/assert.h"

#include <string_view>

namespace pare {

void assertion_failed(const char* file, int line, const std::string& message) {
  // The last two components are enough to find the place and do not print where the program was built.
  std::string_view name(file);
  if (const size_t slash = name.rfind('/'); slash != std::string_view::npos && slash > 0) {
    const size_t before = name.rfind('/', slash - 1);
    name.remove_prefix(before == std::string_view::npos ? 0 : before + 1);
  }
  throw InternalError(fmt::format("{}:{}: {}", name, line, message));
}

}  // namespace pare
