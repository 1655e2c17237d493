// engine/tokenizer/unicode.h: characters of UTF-8 text, the classes that tokenizer rules ask for, and the
// normal forms. Texts given to these functions are valid UTF-8. Properties come from utf8proc.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace pare::unicode {

// --- characters ------------------------------------------------------------------------------------------

struct Character {
  uint32_t code = 0;
  uint32_t bytes = 0;  // 1 to 4
};

// The character that starts at `text`; valid UTF-8 has all of its bytes.
inline Character decode_at(const char* text) {
  const auto byte = [text](int i) { return static_cast<uint32_t>(static_cast<unsigned char>(text[i])); };
  const uint32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xE0) return {(lead & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  if (lead < 0xF0) return {(lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
  return {(lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), 4};
}
inline bool is_continuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}
// The character that ends just before `end`; begin < end.
Character decode_before(const char* begin, const char* end);

void append(std::string& out, uint32_t code);
std::string encode(uint32_t code);
int64_t count_characters(std::string_view text);

// --- classes ---------------------------------------------------------------------------------------------

// Bits of kinds(); a character has at most one of the first six and kSpace.
enum Kind : uint8_t {
  kUpper = 1,        // Lu, Lt
  kLower = 2,        // Ll
  kOtherLetter = 4,  // Lm, Lo
  kLetter = 7,       // \p{L}
  kNumber = 8,       // \p{N}
  kSpace = 16,       // \s, the property White_Space
  kMark = 32,        // \p{M}
  kLineEnd = 64,     // CR or LF
};
inline constexpr std::array<uint8_t, 128> kAsciiKinds = [] {
  std::array<uint8_t, 128> table{};
  for (size_t code = 9; code <= 13; ++code) table[code] = kSpace;
  table[' '] = kSpace;
  table['\r'] = table['\n'] = kSpace | kLineEnd;
  for (size_t code = '0'; code <= '9'; ++code) table[code] = kNumber;
  for (size_t code = 'A'; code <= 'Z'; ++code) table[code] = kUpper;
  for (size_t code = 'a'; code <= 'z'; ++code) table[code] = kLower;
  return table;
}();
uint8_t kinds_of_wide(uint32_t code);  // code >= 0x80
inline uint8_t kinds(uint32_t code) {
  return code < 0x80 ? kAsciiKinds[code] : kinds_of_wide(code);
}

bool is_space(uint32_t code);            // White_Space
bool is_number(uint32_t code);           // Nd, Nl, No
bool is_word(uint32_t code);             // \w: Alphabetic, M, Nd, Pc, Join_Control
bool is_punctuation(uint32_t code);      // ASCII punctuation, or P
bool is_mark(uint32_t code);             // M
bool is_nonspacing_mark(uint32_t code);  // Mn
bool is_other(uint32_t code);            // Cc, Cf, Co

// --- transformations -------------------------------------------------------------------------------------

// Full lower case of one character, without context.
void append_lower(std::string& out, uint32_t code);
// Upper case of one character; of those that become several only the sharp s does so here.
void append_upper(std::string& out, uint32_t code);

enum class Form { nfc, nfd, nfkc, nfkd };
std::string normalize(std::string_view text, Form form);

// Byte length of the first extended grapheme cluster; `text` is not empty.
size_t first_grapheme(std::string_view text);

}  // namespace pare::unicode
