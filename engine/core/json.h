// engine/core/json.h: JSON values with positions, a bounded reader for untrusted text, a deterministic
// writer.
//
// The reader refuses what common parsers let pass: duplicate keys, invalid UTF-8, lone surrogates, depth,
// string and node counts over the caps of limits.h, NaN and out-of-range numbers. Integers come from the
// token text: 1e3 and 2^64 are not integers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/core/result.h"

namespace pare {

class Json {
 public:
  enum class Kind : uint8_t { null, boolean, integer, unsigned_integer, real, string, array, object };
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;
  using Object = std::vector<Member>;  // in file order

  Json();
  Json(bool value);              // NOLINT: implicit on purpose, as below
  Json(int64_t value);           // NOLINT
  Json(int value);               // NOLINT
  Json(uint64_t value);          // NOLINT
  Json(double value);            // NOLINT
  Json(std::string value);       // NOLINT
  Json(std::string_view value);  // NOLINT
  Json(const char* value);       // NOLINT
  Json(Array value);             // NOLINT
  static Json array();
  static Json object();

  Json(const Json&);
  Json(Json&&) noexcept;
  Json& operator=(const Json&);
  Json& operator=(Json&&) noexcept;
  ~Json();

  Kind kind() const { return kind_; }
  const char* kind_name() const;  // "string", "number", ... for messages
  bool is_null() const { return kind_ == Kind::null; }
  bool is_bool() const { return kind_ == Kind::boolean; }
  bool is_integer() const { return kind_ == Kind::integer || kind_ == Kind::unsigned_integer; }
  bool is_number() const { return is_integer() || kind_ == Kind::real; }
  bool is_string() const { return kind_ == Kind::string; }
  bool is_array() const { return kind_ == Kind::array; }
  bool is_object() const { return kind_ == Kind::object; }

  // Asserted kinds: check first, or use the readers below.
  bool as_bool() const;
  int64_t as_int() const;    // kind integer, or unsigned_integer that fits
  uint64_t as_uint() const;  // non-negative integers
  double as_double() const;  // any number
  const std::string& as_string() const;
  const Array& items() const;
  Array& items();
  const Object& members() const;
  Object& members();
  size_t size() const;  // items or members

  const Json* find(std::string_view key) const;  // nullptr when absent or not an object
  Json& operator[](std::string_view key);        // inserts null at the end when absent
  const Json& operator[](size_t index) const;
  void push_back(Json value);
  bool erase(std::string_view key);

  bool operator==(const Json& other) const;

  // Where the value began in its text, from 1; 0 when it was not parsed.
  uint32_t line() const { return line_; }
  uint32_t column() const { return column_; }
  void set_position(uint32_t line, uint32_t column) { line_ = line, column_ = column; }

  // Text with stable formatting: members in their order, doubles in shortest form (integral ones with ".0",
  // so that they stay doubles; NaN and infinities as null, for JSON has none), non-ASCII as UTF-8. indent <
  // 0: one line without spaces; else pretty-printed.
  std::string dump(int indent = -1) const;
  // The same with keys sorted by bytes at every level.
  std::string dump_sorted(int indent = -1) const;

 private:
  Kind kind_ = Kind::null;
  uint32_t line_ = 0, column_ = 0;
  union Value {
    bool boolean;
    int64_t integer;
    uint64_t unsigned_integer;
    double real;
    std::string* string;
    Array* array;
    Object* object;
  } value_;
  void destroy();
};

struct JsonLimits {
  uint64_t max_bytes;        // of the text; exit 6 beyond it
  uint64_t max_nodes = 0;    // 0: limits::kJsonNodes
  bool want_object = true;   // the root must be an object
  bool offsets = false;      // errors name the byte offset instead of line:column ...
  uint64_t offset_base = 0;  // ... counted from here, when the text is a part of a file
};

// Parses the whole text. Errors carry `path`, `rule` and line:column (or the byte offset with `offsets`);
// columns count bytes.
//   exit 3: not JSON, duplicate key, depth, encoding (always with the byte offset); exit 6: a cap.
Result<Json> parse_json(std::string_view text, std::string_view path, const JsonLimits& limits,
                        std::string_view rule = {});

}  // namespace pare
