// engine/tokenizer/load_fields.h: reading the objects of tokenizer.json with errors that name their place.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/json.h"
#include "engine/core/result.h"

namespace pare {

// An object of the file and where it stands ("model", "normalizer.normalizers[2]").
class Fields {
 public:
  Fields(const Json& json, const std::string& path, std::string where)
      : json_(&json), path_(&path), where_(std::move(where)) {}

  const Json& json() const { return *json_; }
  const std::string& path() const { return *path_; }
  const std::string& where() const { return where_; }
  std::string at(std::string_view key) const {
    return where_.empty() ? std::string(key) : where_ + "." + std::string(key);
  }

  // nullptr when the field is missing or null.
  const Json* find(std::string_view key) const;
  bool has(std::string_view key) const { return find(key) != nullptr; }

  // Without a fallback the field must be there. Errors: malformed, TK01.
  Result<bool> boolean(std::string_view key, std::optional<bool> fallback = std::nullopt) const;
  Result<std::string> text(std::string_view key, std::optional<std::string> fallback = std::nullopt) const;
  Result<uint64_t> count(std::string_view key, std::optional<uint64_t> fallback = std::nullopt) const;
  Result<uint32_t> character(std::string_view key,
                             std::optional<std::string_view> fallback = std::nullopt) const;
  Result<const Json*> array(std::string_view key) const;
  Result<const Json*> object(std::string_view key) const;

  Error malformed(std::string_view rule, std::string_view key, std::string what, std::string got = {}) const;
  Error wrong_kind(std::string_view key, std::string_view expected) const;
  // TK12: a type that pare does not know.
  Error unknown_type(std::string_view kind, std::string_view type) const;

 private:
  const Json* json_;
  const std::string* path_;
  std::string where_;
};

// A step of a chain with its place. Nested objects of type "Sequence" are replaced by the elements of
// `list_key`, in order, without recursion. A missing or null chain has no steps. Errors: TK01, TK12 (more
// than kTokenizerSteps).
struct Step {
  std::string type;
  Fields fields;
};
Result<std::vector<Step>> flatten_chain(const Fields& root, std::string_view key, std::string_view list_key);

}  // namespace pare
