#include "evaluate/json_fields.h"

#include <fmt/core.h>

#include <limits>

#include "engine/core/text.h"

namespace pare {
namespace {

const Json& empty_object() {
  static const Json empty = Json::object();
  return empty;
}

const Json& empty_array() {
  static const Json empty = Json::array();
  return empty;
}

}  // namespace

JsonFields::JsonFields(const Json& object, std::string_view path, std::string where)
    : object_(object), path_(path), where_(std::move(where)) {
  if (object_.is_object()) return;
  error_ = Error{.exit = Exit::malformed,
                 .rule = "RP03",
                 .path = std::string(path_),
                 .where = where_.empty() ? "document" : where_.substr(0, where_.size() - 1),
                 .what = "not an object",
                 .got = object_.kind_name(),
                 .limit = {}};
}

void JsonFields::fail(const char* key, const char* rule, std::string what, std::string got,
                      std::string expected) {
  if (error_) return;
  error_ = Error{.exit = Exit::malformed,
                 .rule = rule,
                 .path = std::string(path_),
                 .where = where_ + key,
                 .what = std::move(what),
                 .got = std::move(got),
                 .limit = std::move(expected),
                 .limit_label = "expected"};
}

void JsonFields::absorb(const std::optional<Error>& error) {
  if (!error_ && error) error_ = error;
}

const Json* JsonFields::find(const char* key, bool (Json::*has_kind)() const, const char* kind) {
  if (error_) return nullptr;
  const Json* value = object_.find(key);
  if (value == nullptr) {
    fail(key, "RP02", "report field is missing", {}, kind);
    return nullptr;
  }
  if ((value->*has_kind)()) return value;
  fail(key, "RP03", "report field has the wrong type", value->kind_name(), kind);
  return nullptr;
}

std::string JsonFields::text(const char* key) {
  const Json* value = find(key, &Json::is_string, "string");
  return value == nullptr ? std::string() : value->as_string();
}

int64_t JsonFields::integer(const char* key, int64_t lowest, int64_t highest) {
  const Json* value = find(key, &Json::is_integer, "integer");
  if (value == nullptr) return lowest;
  // What does not fit an int64 is above every limit here.
  const bool fits = value->kind() == Json::Kind::integer ||
                    value->as_uint() <= uint64_t(std::numeric_limits<int64_t>::max());
  if (fits && value->as_int() >= lowest && value->as_int() <= highest) return value->as_int();
  fail(key, "RP04", "report value is out of range", value->dump(), fmt::format("{} to {}", lowest, highest));
  return lowest;
}

int64_t JsonFields::count(const char* key) {
  return integer(key, 0, std::numeric_limits<int64_t>::max());
}

uint64_t JsonFields::bytes(const char* key) {
  return uint64_t(count(key));
}

double JsonFields::real(const char* key) {
  const Json* value = error_ ? nullptr : object_.find(key);
  if (value != nullptr && value->is_null()) return std::numeric_limits<double>::infinity();
  value = find(key, &Json::is_number, "number");
  return value == nullptr ? 0.0 : value->as_double();
}

bool JsonFields::flag(const char* key) {
  const Json* value = find(key, &Json::is_bool, "true or false");
  return value != nullptr && value->as_bool();
}

const Json& JsonFields::object(const char* key) {
  const Json* value = find(key, &Json::is_object, "object");
  return value == nullptr ? empty_object() : *value;
}

const Json::Array& JsonFields::array(const char* key) {
  const Json* value = find(key, &Json::is_array, "array");
  return value == nullptr ? empty_array().items() : value->items();
}

std::vector<std::string> JsonFields::texts(const char* key) {
  std::vector<std::string> texts;
  for (const Json& item : array(key)) {
    if (!item.is_string()) {
      fail(key, "RP03", "report list holds something else than text", item.kind_name(), "strings");
      return {};
    }
    texts.push_back(item.as_string());
  }
  return texts;
}

std::vector<uint64_t> JsonFields::counts(const char* key, size_t size) {
  const Json::Array& items = array(key);
  if (error_) return {};
  if (items.size() != size) {
    fail(key, "RP04", "histogram has another number of bins", std::to_string(items.size()),
         std::to_string(size));
    return {};
  }
  std::vector<uint64_t> counts;
  counts.reserve(size);
  for (const Json& item : items) {
    // Sums of 128 counts below 2^53 cannot wrap.
    if (!item.is_integer() || (item.kind() == Json::Kind::integer && item.as_int() < 0) ||
        item.as_uint() >> 53 != 0) {
      fail(key, "RP04", "histogram count is not a count", quote(item.is_string() ? "string" : item.dump()),
           "integers from 0");
      return {};
    }
    counts.push_back(item.as_uint());
  }
  return counts;
}

}  // namespace pare
