#include "engine/core/json.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/core/assert.h"

namespace pare {

Json::Json() {
  value_.integer = 0;
}
Json::Json(bool value) : kind_(Kind::boolean) {
  value_.boolean = value;
}
Json::Json(int64_t value) : kind_(Kind::integer) {
  value_.integer = value;
}
Json::Json(int value) : Json(static_cast<int64_t>(value)) {}
Json::Json(double value) : kind_(Kind::real) {
  value_.real = value;
}
Json::Json(std::string value) : kind_(Kind::string) {
  value_.string = new std::string(std::move(value));
}
Json::Json(std::string_view value) : Json(std::string(value)) {}
Json::Json(const char* value) : Json(std::string(value)) {}
Json::Json(Array value) : kind_(Kind::array) {
  value_.array = new Array(std::move(value));
}

// One representation per number: unsigned_integer only for what int64_t cannot hold.
Json::Json(uint64_t value) {
  if (value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    kind_ = Kind::integer;
    value_.integer = static_cast<int64_t>(value);
  } else {
    kind_ = Kind::unsigned_integer;
    value_.unsigned_integer = value;
  }
}

Json Json::array() {
  return Json(Array());
}

Json Json::object() {
  Json json;
  json.value_.object = new Object();
  json.kind_ = Kind::object;
  return json;
}

// Copies are recursive; depth is bounded by the reader (limits::kJsonDepth) or by our own code.
Json::Json(const Json& other) : line_(other.line_), column_(other.column_), value_(other.value_) {
  switch (other.kind_) {
    case Kind::string:
      value_.string = new std::string(*other.value_.string);
      break;
    case Kind::array:
      value_.array = new Array(*other.value_.array);
      break;
    case Kind::object:
      value_.object = new Object(*other.value_.object);
      break;
    default:
      break;
  }
  kind_ = other.kind_;
}

Json::Json(Json&& other) noexcept
    : kind_(std::exchange(other.kind_, Kind::null)),
      line_(other.line_),
      column_(other.column_),
      value_(other.value_) {}

Json& Json::operator=(const Json& other) {
  if (this != &other) *this = Json(other);
  return *this;
}

Json& Json::operator=(Json&& other) noexcept {
  // Through a temporary: `other` may be inside the payload that is given up here.
  Json taken(std::move(other));
  std::swap(kind_, taken.kind_);
  std::swap(line_, taken.line_);
  std::swap(column_, taken.column_);
  std::swap(value_, taken.value_);
  return *this;
}

Json::~Json() {
  destroy();
}

void Json::destroy() {
  switch (kind_) {
    case Kind::string:
      delete value_.string;
      break;
    case Kind::array:
      delete value_.array;
      break;
    case Kind::object:
      delete value_.object;
      break;
    default:
      break;
  }
  kind_ = Kind::null;
}

const char* Json::kind_name() const {
  switch (kind_) {
    case Kind::null:
      return "null";
    case Kind::boolean:
      return "boolean";
    case Kind::integer:
    case Kind::unsigned_integer:
      return "integer";
    case Kind::real:
      return "number";
    case Kind::string:
      return "string";
    case Kind::array:
      return "array";
    case Kind::object:
      return "object";
  }
  return "unknown";
}

bool Json::as_bool() const {
  PARE_ASSERT(is_bool(), "[json] as_bool of {}", kind_name());
  return value_.boolean;
}

int64_t Json::as_int() const {
  PARE_ASSERT(kind_ == Kind::integer, "[json] as_int of {} (beyond 2^63 counts too)", kind_name());
  return value_.integer;
}

uint64_t Json::as_uint() const {
  if (kind_ == Kind::unsigned_integer) return value_.unsigned_integer;
  PARE_ASSERT(kind_ == Kind::integer && value_.integer >= 0, "[json] as_uint of {} or a negative",
              kind_name());
  return static_cast<uint64_t>(value_.integer);
}

double Json::as_double() const {
  if (kind_ == Kind::integer) return static_cast<double>(value_.integer);
  if (kind_ == Kind::unsigned_integer) return static_cast<double>(value_.unsigned_integer);
  PARE_ASSERT(kind_ == Kind::real, "[json] as_double of {}", kind_name());
  return value_.real;
}

const std::string& Json::as_string() const {
  PARE_ASSERT(is_string(), "[json] as_string of {}", kind_name());
  return *value_.string;
}

const Json::Array& Json::items() const {
  PARE_ASSERT(is_array(), "[json] items of {}", kind_name());
  return *value_.array;
}

Json::Array& Json::items() {
  PARE_ASSERT(is_array(), "[json] items of {}", kind_name());
  return *value_.array;
}

const Json::Object& Json::members() const {
  PARE_ASSERT(is_object(), "[json] members of {}", kind_name());
  return *value_.object;
}

Json::Object& Json::members() {
  PARE_ASSERT(is_object(), "[json] members of {}", kind_name());
  return *value_.object;
}

size_t Json::size() const {
  return is_array() ? items().size() : members().size();
}

const Json* Json::find(std::string_view key) const {
  if (!is_object()) return nullptr;
  for (const Member& member : *value_.object) {
    if (member.first == key) return &member.second;
  }
  return nullptr;
}

Json& Json::operator[](std::string_view key) {
  for (Member& member : members()) {
    if (member.first == key) return member.second;
  }
  return members().emplace_back(std::string(key), Json()).second;
}

const Json& Json::operator[](size_t index) const {
  PARE_ASSERT(index < items().size(), "[json] index {} of {}", index, items().size());
  return items()[index];
}

void Json::push_back(Json value) {
  items().push_back(std::move(value));
}

bool Json::erase(std::string_view key) {
  Object& all = members();
  const auto found = std::find_if(all.begin(), all.end(), [&](const Member& m) { return m.first == key; });
  if (found == all.end()) return false;
  all.erase(found);
  return true;
}

// Members compare in order; 1 and 1.0 are different kinds and so not equal. Positions do not count.
bool Json::operator==(const Json& other) const {
  if (kind_ != other.kind_) return false;
  switch (kind_) {
    case Kind::null:
      return true;
    case Kind::boolean:
      return value_.boolean == other.value_.boolean;
    case Kind::integer:
      return value_.integer == other.value_.integer;
    case Kind::unsigned_integer:
      return value_.unsigned_integer == other.value_.unsigned_integer;
    case Kind::real:
      return value_.real == other.value_.real;
    case Kind::string:
      return *value_.string == *other.value_.string;
    case Kind::array:
      return *value_.array == *other.value_.array;
    case Kind::object:
      return *value_.object == *other.value_.object;
  }
  return false;
}

}  // namespace pare
