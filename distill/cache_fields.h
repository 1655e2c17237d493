// distill/cache_fields.h: fields of the JSON header of a cache, read with errors that name them; internal to
// the caches of distill.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/core/json.h"
#include "engine/core/result.h"

namespace pare {

// Error of a cache that contradicts itself (exit 3), with the rule of docs/bad-input.md.
Error cache_error(const char* rule, const std::string& path, std::string where, std::string what,
                  std::string got = {}, std::string expected = {});

// Error of a cache that was made from something else (TC05, exit 8), with both values.
Error foreign_cache(const std::string& path, std::string_view field, std::string got, std::string expected);

// What seal_json() wrote: TC02 when a byte changed, TC03 when it is no object.
Result<Json> read_sealed(std::string_view text, const std::string& path);

class CacheFields {
 public:
  CacheFields(const Json& json, const std::string& path) : json_(json), path_(path) {}

  // TC03 naming the field when it is missing, of another kind or outside [low, high].
  Result<int64_t> integer(std::string_view name, int64_t low, int64_t high) const;
  Result<double> number(std::string_view name, double low, double high) const;
  Result<std::string> text(std::string_view name, size_t most_bytes) const;

 private:
  const Json& json_;
  const std::string& path_;
};

}  // namespace pare
