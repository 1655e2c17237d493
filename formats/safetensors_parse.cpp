#include "formats/safetensors_parse.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "formats/fault.h"
#include "formats/tensor_name.h"

namespace pare {
namespace {

constexpr uint64_t kTextBegin = 8;  // of the header in the file

bool is_space(char c) {
  return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

// One pass over the bytes before anything is built: encoding, nesting, number of members.
Status check_text(std::string_view text, std::string_view path) {
  const auto byte_at = [](size_t offset) { return fmt::format("byte {}", kTextBegin + offset); };
  if (text.starts_with("\xef\xbb\xbf"))
    return malformed("ST08", path, byte_at(0), "byte order mark before the header");
  if (text.empty() || text[0] != '{') {
    return malformed("ST07", path, byte_at(0), "header does not start with '{'", quote(text.substr(0, 1)));
  }
  if (const size_t invalid = first_invalid_utf8(text); invalid != 0) {
    return malformed("ST08", path, byte_at(invalid - 1), "invalid UTF-8 in the header");
  }
  uint64_t depth = 0, members = 1;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\')
        ++i;
      else if (c == '"')
        in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > limits::kJsonDepth) {
        return malformed("ST10", path, byte_at(i), "nesting depth is over the limit", std::to_string(depth),
                         std::to_string(limits::kJsonDepth), "limit");
      }
    } else if (c == '}' || c == ']') {
      depth -= depth > 0 ? 1 : 0;
    } else if (c == ',' && depth == 1) {
      ++members;
    }
  }
  // one more: __metadata__ is no tensor
  if (members > limits::kTensors + 1) {
    return over_cap("ST25", path, "header", "tensor count is over the limit", members, limits::kTensors);
  }
  return {};
}

class Parser {
 public:
  Parser(std::string_view text, std::string_view path) : text_(text), path_(path) {}

  Result<SafetensorsHeader> parse() {
    PARE_CHECK(check_text(text_, path_));
    ++at_;  // the brace, seen by check_text
    if (!take('}')) {
      do {
        PARE_CHECK(parse_member());
      } while (take(','));
      PARE_CHECK(expect('}'));
    }
    for (; at_ < text_.size(); ++at_) {
      if (text_[at_] != ' ') return error("ST09", "header continues after its closing brace");
    }
    return std::move(header_);
  }

 private:
  Status parse_member() {
    PARE_TRY(std::string name, parse_string());
    PARE_CHECK(expect(':'));
    if (name == "__metadata__") return parse_metadata();
    if (const std::string_view what = fault_of_tensor_name(name); !what.empty()) {
      return malformed("ST26", path_, fmt::format("tensor {} {}", header_.entries.size(), quote(name)),
                       std::string(what));
    }
    SafetensorsEntry entry;
    entry.name = std::move(name);
    PARE_CHECK(parse_entry(entry));
    header_.entries.push_back(std::move(entry));
    return {};
  }

  Status parse_metadata() {
    if (has_metadata_) return malformed("ST12", path_, "__metadata__", "duplicate key");
    has_metadata_ = true;
    if (!take('{')) return malformed("ST15", path_, "__metadata__", "not an object", next_token());
    if (take('}')) return {};
    do {
      PARE_TRY(std::string key, parse_string());
      PARE_CHECK(expect(':'));
      const std::string where = "__metadata__." + quote(key);
      if (peek() != '"')
        return malformed("ST15", path_, where, "metadata value is not a string", next_token());
      PARE_TRY(std::string value, parse_string());
      const auto& all = header_.metadata;
      if (std::any_of(all.begin(), all.end(), [&](const auto& pair) { return pair.first == key; })) {
        return malformed("ST12", path_, where, "duplicate key");
      }
      if (all.size() >= kMetadataKeys) {
        return over_cap("ST15", path_, "__metadata__", "number of keys is over the limit", all.size() + 1,
                        kMetadataKeys);
      }
      header_.metadata.emplace_back(std::move(key), std::move(value));
    } while (take(','));
    return expect('}');
  }

  Status parse_entry(SafetensorsEntry& entry) {
    const std::string name = quote(entry.name);
    if (!take('{')) return malformed("ST13", path_, name, "entry is not an object", next_token());
    std::array<bool, 3> seen{};  // in the order of kFields
    static constexpr std::array<std::string_view, 3> kFields = {"dtype", "shape", "data_offsets"};
    if (!take('}')) {
      do {
        PARE_TRY(const std::string key, parse_string());
        PARE_CHECK(expect(':'));
        const auto found = std::find(kFields.begin(), kFields.end(), key);
        if (found == kFields.end()) return malformed("ST13", path_, name + "." + quote(key), "unknown field");
        bool& known = seen[static_cast<size_t>(found - kFields.begin())];
        if (known) return malformed("ST12", path_, name + "." + key, "duplicate key");
        known = true;
        if (key == "dtype") {
          PARE_CHECK(parse_dtype(entry, name));
        } else if (key == "shape") {
          PARE_CHECK(parse_shape(entry, name));
        } else {
          PARE_CHECK(parse_offsets(entry, name));
        }
      } while (take(','));
      PARE_CHECK(expect('}'));
    }
    for (size_t i = 0; i < kFields.size(); ++i) {
      if (!seen[i]) return malformed("ST13", path_, name + "." + std::string(kFields[i]), "missing field");
    }
    return {};
  }

  Status parse_dtype(SafetensorsEntry& entry, const std::string& name) {
    if (peek() != '"') return malformed("ST13", path_, name + ".dtype", "not a string", next_token());
    PARE_TRY(const std::string text, parse_string());
    const auto dtype = dtype_from_name(text);
    if (!dtype) return unsupported("ST14", path_, name + ".dtype", "unknown dtype", quote(text));
    entry.dtype = *dtype;
    return {};
  }

  Status parse_shape(SafetensorsEntry& entry, const std::string& name) {
    const std::string where = name + ".shape";
    if (!take('[')) return malformed("ST13", path_, where, "not an array", next_token());
    std::vector<int64_t> extents;
    if (!take(']')) {
      do {
        const std::string token = next_token();
        const auto extent = parse_uint(token);
        if (!extent || is_zero_led(token)) {
          return malformed("ST16", path_, fmt::format("{}[{}]", where, extents.size()), "not a size",
                           quote(token));
        }
        if (*extent >= limits::kDimension) {
          return malformed("ST17", path_, fmt::format("{}[{}]", where, extents.size()),
                           "dimension is over the limit", token, std::to_string(limits::kDimension), "limit");
        }
        // read on behind the limit only to tell the rank
        if (extents.size() < kRanksShown) extents.push_back(static_cast<int64_t>(*extent));
        at_ += token.size();
      } while (take(','));
      PARE_CHECK(expect(']'));
    }
    if (extents.size() > limits::kRank) {
      return unsupported("ST18", path_, where, "rank is over the limit", std::to_string(extents.size()),
                         std::to_string(limits::kRank), "limit");
    }
    if (!checked_elements(extents))
      return malformed("ST17", path_, where, "product overflows", shape_text(extents));
    entry.shape = Shape(extents);
    return {};
  }

  Status parse_offsets(SafetensorsEntry& entry, const std::string& name) {
    const std::string where = name + ".data_offsets";
    if (!take('[')) return malformed("ST13", path_, where, "not an array", next_token());
    std::array<uint64_t, 2> offsets{};
    size_t count = 0;
    if (!take(']')) {
      do {
        const std::string token = next_token();
        const auto offset = parse_uint(token);
        if (!offset || is_zero_led(token))
          return malformed("ST20", path_, where, "not an offset", quote(token));
        if (count < 2) offsets[count] = *offset;
        ++count;
        at_ += token.size();
      } while (take(','));
      PARE_CHECK(expect(']'));
    }
    if (count != 2)
      return malformed("ST20", path_, where, "wrong number of offsets", std::to_string(count), "2");
    if (offsets[0] > offsets[1]) {
      return malformed("ST20", path_, where, "range ends before it begins",
                       fmt::format("[{}, {}]", offsets[0], offsets[1]));
    }
    entry.begin = offsets[0];
    entry.end = offsets[1];
    return {};
  }

  // A JSON string at the current place, decoded.
  Result<std::string> parse_string() {
    skip_space();
    if (at_ >= text_.size()) return error("ST09", "header ends too early");
    if (text_[at_] != '"') return error("ST09", "string expected", next_token());
    ++at_;
    std::string out;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '"') {
        ++at_;
        return out;
      }
      if (static_cast<unsigned char>(c) < 0x20)
        return error("ST09", "unescaped control character in a string");
      if (c == '\\') {
        PARE_CHECK(parse_escape(out));
      } else {
        out += c;
        ++at_;
      }
    }
    return error("ST09", "header ends inside a string");
  }

  Status parse_escape(std::string& out) {
    static constexpr std::string_view kLetters = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
    const char c = at_ + 1 < text_.size() ? text_[at_ + 1] : '\0';
    if (c != 'u') {
      const size_t index = kLetters.find(c);
      if (c == '\0' || index == std::string_view::npos) return error("ST09", "unknown escape in a string");
      out += kValues[index];
      at_ += 2;
      return {};
    }
    const int64_t first = hex_unit(at_ + 2);
    if (first < 0) return error("ST09", "malformed \\u escape in a string");
    if (first >= 0xdc00 && first < 0xe000) return error("ST08", "lone surrogate in a string");
    if (first < 0xd800 || first >= 0xe000) {
      append_utf8(out, static_cast<uint32_t>(first));
      at_ += 6;
      return {};
    }
    const bool paired = at_ + 7 < text_.size() && text_[at_ + 6] == '\\' && text_[at_ + 7] == 'u';
    const int64_t second = paired ? hex_unit(at_ + 8) : -1;
    if (second < 0xdc00 || second >= 0xe000) return error("ST08", "lone surrogate in a string");
    append_utf8(out, static_cast<uint32_t>(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)));
    at_ += 12;
    return {};
  }

  // The four hex digits at `offset`, or -1.
  int64_t hex_unit(size_t offset) const {
    if (offset + 4 > text_.size()) return -1;
    int64_t value = 0;
    for (size_t i = offset; i < offset + 4; ++i) {
      const char c = text_[i];
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) return -1;
      value = value * 16 + digit;
    }
    return value;
  }

  static void append_utf8(std::string& out, uint32_t code) {
    const auto put = [&](uint32_t byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
    if (code < 0x80) {
      put(code);
    } else if (code < 0x800) {
      put(0xc0 | (code >> 6)), put(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
      put(0xe0 | (code >> 12)), put(0x80 | ((code >> 6) & 0x3f)), put(0x80 | (code & 0x3f));
    } else {
      put(0xf0 | (code >> 18)), put(0x80 | ((code >> 12) & 0x3f)), put(0x80 | ((code >> 6) & 0x3f)),
          put(0x80 | (code & 0x3f));
    }
  }

  // What stands here up to the next separator, for numbers and for messages.
  std::string next_token() {
    skip_space();
    size_t end = at_;
    while (end < text_.size() && end - at_ < kTokenShown && !is_space(text_[end]) &&
           std::string_view(",:]}").find(text_[end]) == std::string_view::npos) {
      ++end;
    }
    return std::string(text_.substr(at_, end - at_));
  }

  static bool is_zero_led(std::string_view token) { return token.size() > 1 && token[0] == '0'; }

  static std::string shape_text(const std::vector<int64_t>& extents) {
    std::string text = "[";
    for (const int64_t extent : extents) text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
    return text + "]";
  }

  void skip_space() {
    while (at_ < text_.size() && is_space(text_[at_])) ++at_;
  }
  char peek() {
    skip_space();
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool take(char wanted) {
    if (peek() != wanted) return false;
    ++at_;
    return true;
  }
  Status expect(char wanted) {
    if (take(wanted)) return {};
    if (at_ >= text_.size()) return error("ST09", "header ends too early");
    return error("ST09", fmt::format("'{}' expected", wanted), quote(next_token()));
  }
  Error error(const char* rule, std::string what, std::string got = {}) const {
    return malformed(rule, path_, fmt::format("byte {}", kTextBegin + at_), std::move(what), std::move(got));
  }

  static constexpr size_t kTokenShown = 64;  // longer than any number that fits
  static constexpr size_t kRanksShown = 64;  // extents kept to name a rank that is too high
  static constexpr size_t kMetadataKeys = 10'000;
  std::string_view text_, path_;
  size_t at_ = 0;
  bool has_metadata_ = false;
  SafetensorsHeader header_;
};

}  // namespace

Result<SafetensorsHeader> parse_safetensors_json(std::string_view json, std::string_view path) {
  return Parser(json, path).parse();
}

}  // namespace pare
