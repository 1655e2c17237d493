// engine/core/json_parse.cpp: parse_json of json.h over the token stream of nlohmann-json.
//
// The library reads tokens and checks the grammar; what it is lenient about (duplicate keys, depth, sizes, a
// BOM, a NUL as the end, 2^64 as a double without a word) is decided here.
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "engine/core/json.h"
#include "engine/core/key_index.h"
#include "engine/core/limits.h"
#include "engine/core/text.h"

namespace pare {
namespace {

// Hands bytes to the library and lets us see how far it has read.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, const char** read) : at_(at), read_(read) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    *read_ = ++at_;
    return *this;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  const char** read_;
};

bool is_between_tokens(char c) {
  return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == ',' || c == ':';
}

// Receives the tokens and builds the value. A false return stops the parser; error_ is set then.
class Builder {
 public:
  Builder(std::string_view text, std::string_view path, const JsonLimits& limits, std::string_view rule)
      : text_(text), read_(text.data()), token_(text.data()), line_start_(text.data()), limits_(limits) {
    error_.path = path;
    error_.rule = rule;
    max_nodes_ = limits.max_nodes != 0 ? limits.max_nodes : limits::kJsonNodes;
  }

  Result<Json> parse() {
    if (!check_text()) return std::move(error_);
    const CountingIterator begin(text_.data(), &read_), end(text_.data() + text_.size(), &read_);
    if (!nlohmann::json::sax_parse(begin, end, this)) return std::move(error_);
    if (limits_.want_object && !root_.is_object()) {
      fail_at(text_.data() + text_.find_first_not_of(" \n\t\r"), "not an object");
      error_.got = root_.kind_name();
      return std::move(error_);
    }
    return std::move(root_);
  }

  // The interface that nlohmann::json::sax_parse calls.
  bool null() { return add(Json()) != nullptr; }
  bool boolean(bool value) { return add(Json(value)) != nullptr; }
  bool number_integer(int64_t value) { return add(Json(value)) != nullptr; }
  bool number_unsigned(uint64_t value) { return add(Json(value)) != nullptr; }
  bool number_float(double /*by strtod, which follows the locale*/, const std::string& token) {
    double value = 0;
    const auto [end, error] = std::from_chars(token.data(), token.data() + token.size(), value);
    // An underflow is reported like an overflow; the nearest double is then zero.
    if (error == std::errc::result_out_of_range) value = 0;
    if (error == std::errc::invalid_argument || end != token.data() + token.size())
      return fail("invalid number");
    return add(Json(value)) != nullptr;
  }
  bool string(std::string& value) { return check_string(value) && add(Json(std::move(value))) != nullptr; }
  bool binary(std::vector<uint8_t>& /*not in JSON text*/) { return fail("binary value"); }
  bool start_array(size_t /*unknown*/) { return open(Json::array()); }
  bool start_object(size_t /*unknown*/) { return open(Json::object()); }
  bool end_array() { return close(); }
  bool end_object() { return close(); }
  bool key(std::string& name) {
    if (!check_string(name)) return false;
    begin_token();
    Open& object = open_.back();
    object.value->members().emplace_back(std::move(name), Json());
    if (object.keys.last_is_duplicate(object.value->members())) {
      fail("duplicate key");
      error_.got = quote(object.value->members().back().first);
      return false;
    }
    end_token();
    return true;
  }
  bool parse_error(size_t position, const std::string& token, const nlohmann::detail::exception& reason);

 private:
  struct Open {
    Json* value;  // stays put: only the innermost container grows
    KeyIndex keys;
  };

  bool check_text() {
    if (text_.size() > limits_.max_bytes) {
      error_.exit = Exit::resource;
      error_.what = "text is larger than the limit";
      set_cap(text_.size(), limits_.max_bytes);
      return false;
    }
    if (text_.starts_with("\xef\xbb\xbf")) return fail_byte(0, "byte order mark before the text");
    if (const size_t invalid = first_invalid_utf8(text_); invalid != 0)
      return fail_byte(invalid - 1, "invalid UTF-8");
    // The library takes a NUL for the end and would not look at the rest.
    const size_t nul = text_.find('\0');
    return nul == std::string_view::npos || fail_byte(nul, "NUL byte in the text");
  }

  bool check_string(const std::string& value) {
    if (value.size() <= limits::kJsonStringBytes) return true;
    begin_token();
    fail("string is longer than the limit", Exit::resource);
    set_cap(value.size(), limits::kJsonStringBytes);
    return false;
  }

  // A value takes its place: the root, the next item, or the value of the last key.
  Json* add(Json value) {
    begin_token();
    if (++nodes_ > max_nodes_) {
      fail("more values than the limit", Exit::resource);
      set_cap(nodes_, max_nodes_);
      return nullptr;
    }
    value.set_position(line_, column());
    end_token();
    Json* place = &root_;
    if (!open_.empty()) {
      Json& parent = *open_.back().value;
      place = parent.is_array() ? &parent.items().emplace_back() : &parent.members().back().second;
    }
    *place = std::move(value);
    return place;
  }

  bool open(Json container) {
    if (open_.size() >= limits::kJsonDepth) {
      begin_token();
      fail("nesting depth is over the limit");
      set_cap(open_.size() + 1, limits::kJsonDepth);
      return false;
    }
    Json* value = add(std::move(container));
    if (value == nullptr) return false;
    open_.push_back({value, {}});
    return true;
  }

  bool close() {
    open_.pop_back();
    end_token();
    return true;
  }

  // Tokens end where the library stands, or one byte before when it had to look past a number. The byte it
  // looked at then is no part of a token that begins a value, so the next token is found from either place.
  void begin_token() {
    const char* end = text_.data() + text_.size();
    while (token_ < end && is_between_tokens(*token_)) ++token_;
    move_line_to(token_);
  }
  void end_token() { token_ = read_; }

  void move_line_to(const char* place) {
    while (counted_ < place) {
      const void* found = std::memchr(counted_, '\n', static_cast<size_t>(place - counted_));
      if (found == nullptr) break;
      line_start_ = counted_ = static_cast<const char*>(found) + 1;
      ++line_;
    }
    counted_ = std::max(counted_, place);
    position_ = place;
  }
  uint32_t column() const {
    constexpr ptrdiff_t kMax = std::numeric_limits<uint32_t>::max();
    return static_cast<uint32_t>(std::min(position_ - line_start_ + 1, kMax));
  }

  void set_cap(uint64_t got, uint64_t limit) {
    error_.got = std::to_string(got);
    error_.limit = std::to_string(limit);
  }

  // Errors. `fail` is about the token that begin_token() found.
  bool fail(const char* what, Exit exit = Exit::malformed) {
    error_.exit = exit;
    error_.what = what;
    error_.where = limits_.offsets ? byte_name(token_) : fmt::format("{}:{}", line_, column());
    return false;
  }
  bool fail_at(const char* place, const char* what) {
    // Also called for a place before the last counted line: count again.
    counted_ = line_start_ = text_.data();
    line_ = 1;
    token_ = place;
    move_line_to(place);
    return fail(what);
  }
  bool fail_byte(size_t offset, const char* what) {
    fail(what);
    error_.where = byte_name(text_.data() + offset);
    return false;
  }
  std::string byte_name(const char* place) const {
    return fmt::format("byte {}", limits_.offset_base + static_cast<uint64_t>(place - text_.data()));
  }

  std::string_view text_;
  const char* read_;   // how far the library has read
  const char* token_;  // begin of the current token, or a place between the last token and the next
  const char* counted_ = text_.data();  // line breaks before it are counted in line_
  const char* line_start_;
  const char* position_ = text_.data();
  uint32_t line_ = 1;
  JsonLimits limits_;
  uint64_t max_nodes_ = 0, nodes_ = 0;
  Json root_;
  std::vector<Open> open_;
  Error error_;
};

bool Builder::parse_error(size_t position, const std::string& token,
                          const nlohmann::detail::exception& reason) {
  constexpr int kNumberOverflow = 406;
  constexpr size_t kShown = 24;
  const std::string_view phrase = reason.what();
  // `position` counts the bytes read, the offending one included; the end of the text counts as one.
  const size_t offset = std::min(position > 0 ? position - 1 : 0, text_.size());
  begin_token();
  std::string_view literal = text_.substr(static_cast<size_t>(token_ - text_.data()));
  if (literal.starts_with('-')) literal.remove_prefix(1);
  constexpr std::array<std::string_view, 5> kNotFinite = {"NaN", "nan", "Infinity", "inf", "Inf"};
  const bool not_finite = std::any_of(kNotFinite.begin(), kNotFinite.end(),
                                      [&](std::string_view word) { return literal.starts_with(word); });
  if (not_finite || reason.id == kNumberOverflow) {
    fail("number is out of range");
    if (!open_.empty() && open_.back().value->is_object() && !open_.back().value->members().empty()) {
      error_.where += ": " + quote(open_.back().value->members().back().first);
    }
    error_.got = not_finite ? quote(literal.substr(0, 3)) : quote(token);
    error_.limit = "a finite number";
    error_.limit_label = "expected";
  } else if (offset >= text_.size()) {
    fail_at(text_.data() + text_.size(), "text ends too early");
  } else if (phrase.find("surrogate") != std::string_view::npos) {
    fail_byte(offset, "lone surrogate in a string");
  } else if (phrase.find("control character") != std::string_view::npos) {
    fail_at(text_.data() + offset, "unescaped control character in a string");
  } else {
    const bool after_root = open_.empty() && nodes_ > 0;
    fail_at(text_.data() + offset, after_root ? "text continues after the value" : "not valid JSON");
    error_.got = quote(text_.substr(offset, std::min(kShown, text_.size() - offset)));
  }
  return false;
}

}  // namespace

Result<Json> parse_json(std::string_view text, std::string_view path, const JsonLimits& limits,
                        std::string_view rule) {
  return Builder(text, path, limits, rule).parse();
}

}  // namespace pare
