// formats/fault.h: errors of readers in one line; internal to formats.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "engine/core/error.h"

namespace pare {

inline Error fault(Exit exit, const char* rule, std::string_view path, std::string where, std::string what,
                   std::string got = {}, std::string limit = {}, const char* limit_label = "limit") {
  return Error{exit,
               rule,
               std::string(path),
               std::move(where),
               std::move(what),
               std::move(got),
               std::move(limit),
               limit_label};
}

// The file contradicts its format, itself or its neighbours.
inline Error malformed(const char* rule, std::string_view path, std::string where, std::string what,
                       std::string got = {}, std::string limit = {}, const char* limit_label = "expected") {
  return fault(Exit::malformed, rule, path, std::move(where), std::move(what), std::move(got),
               std::move(limit), limit_label);
}

// Valid, but pare does not do it.
inline Error unsupported(const char* rule, std::string_view path, std::string where, std::string what,
                         std::string got = {}, std::string limit = {}, const char* limit_label = "expected") {
  return fault(Exit::unsupported, rule, path, std::move(where), std::move(what), std::move(got),
               std::move(limit), limit_label);
}

// A cap of limits.h.
inline Error over_cap(const char* rule, std::string_view path, std::string where, std::string what,
                      uint64_t got, uint64_t limit) {
  return fault(Exit::resource, rule, path, std::move(where), std::move(what), std::to_string(got),
               std::to_string(limit));
}

}  // namespace pare
