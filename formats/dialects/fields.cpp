#include "formats/dialects/fields.h"

#include <fmt/core.h>

#include <algorithm>

#include "engine/core/text.h"
#include "formats/fault.h"

namespace pare {

std::string shown_value(const Json& value) {
  if (value.is_string()) return quote(value.as_string());
  constexpr size_t kShown = 80;
  const std::string text = value.dump();
  return sanitize(text.size() <= kShown ? text : text.substr(0, kShown) + "...");
}

Fields::Fields(const Json& object, std::string path, std::string prefix)
    : object_(object), path_(std::move(path)), prefix_(std::move(prefix)) {}

std::string Fields::where(std::string_view key) const {
  const bool needs_dot = !prefix_.empty() && !key.empty();
  const std::string name = fmt::format("{}{}{}", prefix_, needs_dot ? "." : "", key);
  const Json* value = key.empty() ? &object_ : object_.find(key);
  if (value == nullptr || value->line() == 0) return sanitize(name);
  return fmt::format("{}:{}: {}", value->line(), value->column(), sanitize(name));
}

const Json* Fields::member(std::string_view key, bool (Json::*is_kind)() const, const char* kind) {
  const Json* value = object_.find(key);
  if (value == nullptr || value->is_null()) return nullptr;
  if ((value->*is_kind)()) return value;
  fail(malformed("CF05", path_, where(key), "value has the wrong type", shown_value(*value), kind));
  return nullptr;
}

std::optional<int64_t> Fields::integer(std::string_view key) {
  const Json* value = member(key, &Json::is_integer, "an integer");
  if (value == nullptr) return std::nullopt;
  constexpr int64_t kMost = int64_t{1} << 48;  // no size or id is larger
  if (value->kind() == Json::Kind::unsigned_integer || value->as_int() < -kMost || value->as_int() > kMost) {
    fail(malformed("CF06", path_, where(key), "value out of range", shown_value(*value)));
    return std::nullopt;
  }
  return value->as_int();
}

std::optional<bool> Fields::flag(std::string_view key) {
  const Json* value = member(key, &Json::is_bool, "true or false");
  return value == nullptr ? std::nullopt : std::optional(value->as_bool());
}

std::optional<std::string> Fields::text(std::string_view key) {
  const Json* value = member(key, &Json::is_string, "a string");
  return value == nullptr ? std::nullopt : std::optional(value->as_string());
}

const Json* Fields::given(std::string_view key) const {
  const Json* value = object_.find(key);
  if (value == nullptr || value->is_null()) return nullptr;
  const bool is_empty = (value->is_object() || value->is_array()) && value->size() == 0;
  return is_empty ? nullptr : value;
}

const Json* Fields::object(std::string_view key) {
  return member(key, &Json::is_object, "an object");
}

const Json* Fields::list(std::string_view key) {
  return member(key, &Json::is_array, "a list");
}

void Fields::refuse_unknown(std::span<const std::string_view> known) {
  for (const auto& member : object_.members()) {
    if (std::find(known.begin(), known.end(), member.first) != known.end()) continue;
    fail(unsupported("QC05", path_, where(member.first), "key is not known to this version",
                     shown_value(member.second)));
    return;
  }
}

void Fields::refuse(std::string_view key, std::string what, std::string expected) {
  const Json* value = object_.find(key);
  fail(unsupported("QC05", path_, where(key), std::move(what),
                   value == nullptr ? "nothing" : shown_value(*value), std::move(expected)));
}

void Fields::fail(Error error) {
  if (!error_) error_ = std::move(error);
}

Status Fields::status() const {
  if (error_) return *error_;
  return {};
}

}  // namespace pare
