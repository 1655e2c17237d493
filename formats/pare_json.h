// formats/pare_json.h: members of the directory with their kinds checked; internal to formats.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/core/json.h"
#include "engine/core/result.h"
#include "engine/core/text.h"
#include "formats/fault.h"

namespace pare {

// Reads members of one JSON object; errors name file, object and member.
struct MemberReader {
  const Json& object;
  std::string_view path;
  std::string where;

  Error error(const char* rule, std::string_view key, std::string what, std::string got = {},
              std::string limit = {}) const {
    return malformed(rule, path, where.empty() ? std::string(key) : where + "." + std::string(key),
                     std::move(what), std::move(got), std::move(limit));
  }
  Result<const Json*> member(std::string_view key) const {
    if (const Json* found = object.find(key)) return found;
    return error("PK30", key, "missing member");
  }
  Result<std::string> text(std::string_view key) const {
    PARE_TRY(const Json* found, member(key));
    if (!found->is_string()) return error("PK30", key, "not a string", found->kind_name());
    return found->as_string();
  }
  Result<uint64_t> size(std::string_view key) const {
    PARE_TRY(const Json* found, member(key));
    const bool negative = found->kind() == Json::Kind::integer && found->as_int() < 0;
    if (!found->is_integer() || negative) {
      return error("PK27", key, "not a size", found->is_number() ? found->dump() : found->kind_name());
    }
    return found->as_uint();
  }
  Result<bool> flag(std::string_view key) const {
    PARE_TRY(const Json* found, member(key));
    if (!found->is_bool()) return error("PK30", key, "not a boolean", found->kind_name());
    return found->as_bool();
  }
  Result<const Json*> array(std::string_view key) const {
    PARE_TRY(const Json* found, member(key));
    if (!found->is_array()) return error("PK30", key, "not an array", found->kind_name());
    return found;
  }
  Result<const Json*> object_member(std::string_view key) const {
    PARE_TRY(const Json* found, member(key));
    if (!found->is_object()) return error("PK30", key, "not an object", found->kind_name());
    return found;
  }
};

}  // namespace pare
