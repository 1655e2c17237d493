#include "engine/core/printable.h"

namespace pare {
namespace {

bool is_continuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xc0u) == 0x80u;
}

// C0, DEL, C1, line and paragraph separators, and everything that changes the direction of text.
bool steers_terminal(char32_t code) {
  return code < 0x20 || (code >= 0x7f && code <= 0x9f) || code == 0x61c || code == 0x200e || code == 0x200f ||
         (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
}

void append_hex(std::string& out, char byte) {
  constexpr char kDigits[] = "0123456789abcdef";
  const auto value = static_cast<unsigned char>(byte);
  out += "\\x";
  out += kDigits[value >> 4];
  out += kDigits[value & 15];
}

}  // namespace

size_t decode_utf8(std::string_view text, char32_t& code) {
  const auto lead = static_cast<unsigned char>(text[0]);
  if (lead < 0x80) {
    code = lead;
    return 1;
  }
  const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < length) return 0;
  code = static_cast<char32_t>(lead & (0x7fu >> length));
  for (size_t i = 1; i < length; ++i) {
    if (!is_continuation(text[i])) return 0;
    code = (code << 6) | (static_cast<unsigned char>(text[i]) & 0x3fu);
  }
  constexpr char32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  if (code < kSmallest[length] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return 0;
  return length;
}

bool append_printable(std::string& out, std::string_view text, Backslash backslash, size_t max_bytes) {
  const size_t start = out.size();
  while (!text.empty()) {
    const size_t before = out.size();
    char32_t code = 0;
    size_t length = decode_utf8(text, code);
    if (length == 0 || steers_terminal(code)) {
      if (length == 0) length = 1;
      for (size_t i = 0; i < length; ++i) append_hex(out, text[i]);
    } else if (code == U'\\' && backslash == Backslash::doubled) {
      out += "\\\\";
    } else {
      out += text.substr(0, length);
    }
    if (out.size() - start > max_bytes) {
      out.resize(before);
      return false;
    }
    text.remove_prefix(length);
  }
  return true;
}

}  // namespace pare
