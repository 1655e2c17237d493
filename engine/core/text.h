// engine/core/text.h: numbers and strings that people read, and strict reading of numbers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace pare {

// Makes a string from a file safe to print: control characters, DEL, invalid UTF-8, U+2028/2029 and
// bidirectional controls become \xNN per byte, a backslash becomes two.
std::string sanitize(std::string_view text);

// sanitize() in double quotes, cut at 120 bytes with an ellipsis.
std::string quote(std::string_view text);

// Whole-string conversions; nothing on a sign, space, overflow or trailing character that does not belong.
std::optional<int64_t> parse_int(std::string_view text);
std::optional<uint64_t> parse_uint(std::string_view text);
std::optional<double> parse_double(std::string_view text);   // finite only
std::optional<uint64_t> parse_bytes(std::string_view text);  // "80MB", "1.5GiB", "4096"

std::string format_bytes(uint64_t bytes);     // 269.1 MB (decimal units)
std::string format_count(uint64_t count);     // 134,515,008
std::string format_duration(double seconds);  // 0.42 s, 3 min 12 s
std::string format_double(double value);      // shortest text that reads back to the same double
// "2024-02-29T13:05:09Z"; empty for a year that has no four digits.
std::string format_utc(int64_t seconds_since_1970);

// 0 when valid, else byte offset + 1 of the first invalid byte. Rejects surrogates, overlong forms, >
// U+10FFFF.
size_t first_invalid_utf8(std::string_view text);
inline bool is_valid_utf8(std::string_view text) {
  return first_invalid_utf8(text) == 0;
}

// Nearest word by edit distance, for "did you mean"; empty when nothing is near.
std::string nearest_word(std::string_view word, const std::string* first, const std::string* last);

// Shell-style pattern: `*` any run, `?` one character, `{a,b}` alternatives. Matches the whole name, or a
// suffix that starts after a dot ("layers.*.down_proj" matches "model.layers.3.mlp.down_proj.weight" too:
// a trailing ".weight" is optional).
bool matches_pattern(std::string_view pattern, std::string_view name);

}  // namespace pare
