// evaluate/json_fields.h: members of an untrusted JSON object, read with the first error remembered; internal
// to evaluate.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/json.h"
#include "engine/core/result.h"

namespace pare {

class JsonFields {
 public:
  // All three must outlive it. `where`: in front of names in messages, "damage.".
  JsonFields(const Json& object, std::string_view path, std::string where);

  // After an error all of these give empty values. A missing member is RP02, a wrong type RP03, a value out
  // of range RP04.
  std::string text(const char* key);
  int64_t count(const char* key);   // integer, not negative
  uint64_t bytes(const char* key);  // the same, unsigned
  int64_t integer(const char* key, int64_t lowest, int64_t highest);
  double real(const char* key);  // null, as infinities are written, is infinity
  bool flag(const char* key);
  std::vector<std::string> texts(const char* key);
  std::vector<uint64_t> counts(const char* key, size_t size);  // exactly `size` of them
  const Json& object(const char* key);                         // an empty one after an error
  const Json::Array& array(const char* key);
  void fail(const char* key, const char* rule, std::string what, std::string got, std::string expected);
  // Takes over an error of a part, unless there is one already.
  void absorb(const std::optional<Error>& error);

  const std::string& where() const { return where_; }
  std::optional<Error>& error() { return error_; }

 private:
  const Json* find(const char* key, bool (Json::*has_kind)() const, const char* kind);
  const Json& object_;
  std::string_view path_;
  std::string where_;
  std::optional<Error> error_;
};

}  // namespace pare
