// formats/dialects/fields.h: typed members of a JSON object in a quantization config; internal to formats.
//
// The first error is kept and everything after it returns the default, so that a reader reads like a table of
// keys. Null counts as absent, as it does for the tools that write these files. Wrong types are CF05.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "engine/core/json.h"
#include "engine/core/result.h"

namespace pare {

class Fields {
 public:
  // `prefix`: what stands before a key in messages ("quantization_config"). The object outlives the reader.
  Fields(const Json& object, std::string path, std::string prefix);

  std::optional<int64_t> integer(std::string_view key);
  std::optional<bool> flag(std::string_view key);
  std::optional<std::string> text(std::string_view key);
  // Present, not null, and not an empty object or list.
  const Json* given(std::string_view key) const;
  // The member as an object or list; nullptr when absent.
  const Json* object(std::string_view key);
  const Json* list(std::string_view key);

  // QC05, exit 4: a key that this reader does not know; it may change what the codes mean.
  void refuse_unknown(std::span<const std::string_view> known);
  // QC05, exit 4: the value of `key` is one that pare does not handle.
  void refuse(std::string_view key, std::string what, std::string expected = {});
  void fail(Error error);

  Status status() const;
  bool ok() const { return !error_.has_value(); }
  const std::string& path() const { return path_; }
  // "14:24: quantization_config.bits"
  std::string where(std::string_view key) const;

 private:
  const Json* member(std::string_view key, bool (Json::*is_kind)() const, const char* kind);

  const Json& object_;
  std::string path_, prefix_;
  std::optional<Error> error_;
};

// Short printable form of a value for messages.
std::string shown_value(const Json& value);

}  // namespace pare
