// engine/tokenizer/jinja/characters.h: texts as Python sees them: sequences of characters, not of bytes.
#pragma once

#include <string.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/tokenizer/unicode.h"

namespace pare::jinja {

// Byte offset of character `index`, which is at most the number of characters.
inline size_t offset_of_character(std::string_view text, int64_t index) {
  size_t at = 0;
  for (; index > 0; --index) at += unicode::decode_at(text.data() + at).bytes;
  return at;
}

// As text.find(part, from), in linear time.
inline size_t find_text(std::string_view text, std::string_view part, size_t from) {
  if (part.empty()) return from <= text.size() ? from : std::string_view::npos;
  if (from >= text.size()) return std::string_view::npos;
  const void* found = ::memmem(text.data() + from, text.size() - from, part.data(), part.size());
  return found == nullptr ? std::string_view::npos : size_t(static_cast<const char*>(found) - text.data());
}

// str.isspace() of one character: White_Space and the four separators of ASCII.
inline bool is_python_space(uint32_t code) {
  return unicode::is_space(code) || (code >= 0x1c && code <= 0x1f);
}

// Strips characters of `set` (white space when null) from the sides asked for.
std::string_view stripped(std::string_view text, const std::string* set, bool left, bool right);

std::string upper_case(std::string_view text);
std::string lower_case(std::string_view text);
std::string capitalized(std::string_view text);  // first character upper, others lower
// First letter of every word upper, others lower; words begin after any character that is not a letter.
std::string title_case(std::string_view text);

}  // namespace pare::jinja
