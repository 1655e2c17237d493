#include "engine/tokenizer/unicode.h"

#include <utf8proc.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <new>

namespace pare::unicode {
namespace {

// Indexed by utf8proc_category_t.
constexpr std::array<uint8_t, 30> kCategoryKinds = [] {
  std::array<uint8_t, 30> kinds{};
  kinds[UTF8PROC_CATEGORY_LU] = kinds[UTF8PROC_CATEGORY_LT] = kUpper;
  kinds[UTF8PROC_CATEGORY_LL] = kLower;
  kinds[UTF8PROC_CATEGORY_LM] = kinds[UTF8PROC_CATEGORY_LO] = kOtherLetter;
  kinds[UTF8PROC_CATEGORY_MN] = kinds[UTF8PROC_CATEGORY_MC] = kinds[UTF8PROC_CATEGORY_ME] = kMark;
  kinds[UTF8PROC_CATEGORY_ND] = kinds[UTF8PROC_CATEGORY_NL] = kinds[UTF8PROC_CATEGORY_NO] = kNumber;
  kinds[UTF8PROC_CATEGORY_ZS] = kinds[UTF8PROC_CATEGORY_ZL] = kinds[UTF8PROC_CATEGORY_ZP] = kSpace;
  return kinds;
}();

utf8proc_category_t category(uint32_t code) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code));
}

// Text below this code point is the same in every normal form of its kind, and none of its characters
// composes with one before it.
uint32_t first_unstable(Form form) {
  switch (form) {
    case Form::nfc:
      return 0x300;
    case Form::nfd:
      return 0xC0;
    case Form::nfkc:
    case Form::nfkd:
      break;
  }
  return 0xA0;
}

int options_of(Form form) {
  switch (form) {
    case Form::nfc:
      return UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    case Form::nfd:
      return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    case Form::nfkc:
      return UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT;
    case Form::nfkd:
      break;
  }
  return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT;
}

void append_normalized(std::string& out, std::string_view text, Form form) {
  utf8proc_uint8_t* mapped = nullptr;
  const auto size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                 static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                                 static_cast<utf8proc_option_t>(options_of(form)));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, &std::free);
  if (size < 0) throw std::bad_alloc();  // valid UTF-8 fails for want of memory only
  out.append(reinterpret_cast<const char*>(mapped), static_cast<size_t>(size));
}

}  // namespace

Character decode_before(const char* begin, const char* end) {
  const char* start = end - 1;
  while (start > begin && is_continuation(*start)) --start;
  return decode_at(start);
}

void append(std::string& out, uint32_t code) {
  const auto put = [&out](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) return put(code);
  if (code < 0x800) {
    put(0xC0 | code >> 6);
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
  }
  put(0x80 | (code & 0x3F));
}

std::string encode(uint32_t code) {
  std::string out;
  append(out, code);
  return out;
}

int64_t count_characters(std::string_view text) {
  int64_t count = 0;
  for (char byte : text) count += is_continuation(byte) ? 0 : 1;
  return count;
}

uint8_t kinds_of_wide(uint32_t code) {
  if (code == 0x85) return kSpace;  // next line: a control character that is white space
  return kCategoryKinds[category(code)];
}

bool is_space(uint32_t code) {
  return (kinds(code) & kSpace) != 0;
}
bool is_number(uint32_t code) {
  return (kinds(code) & kNumber) != 0;
}
bool is_mark(uint32_t code) {
  return (kinds(code) & kMark) != 0;
}
bool is_nonspacing_mark(uint32_t code) {
  return category(code) == UTF8PROC_CATEGORY_MN;
}

bool is_word(uint32_t code) {
  if (code < 0x80) return (kAsciiKinds[code] & (kLetter | kNumber)) != 0 || code == '_';
  const utf8proc_category_t found = category(code);
  if ((kCategoryKinds[found] & (kLetter | kMark)) != 0 || found == UTF8PROC_CATEGORY_ND ||
      found == UTF8PROC_CATEGORY_NL || found == UTF8PROC_CATEGORY_PC) {
    return true;
  }
  // Symbols with Other_Alphabetic (circled and squared letters), and the two join controls.
  return (code >= 0x24B6 && code <= 0x24E9) || (code >= 0x1F130 && code <= 0x1F149) ||
         (code >= 0x1F150 && code <= 0x1F169) || (code >= 0x1F170 && code <= 0x1F189) || code == 0x200C ||
         code == 0x200D;
}

bool is_punctuation(uint32_t code) {
  if (code < 0x80) return code > 0x20 && code < 0x7F && (kAsciiKinds[code] & (kLetter | kNumber)) == 0;
  const utf8proc_category_t found = category(code);
  return found >= UTF8PROC_CATEGORY_PC && found <= UTF8PROC_CATEGORY_PO;
}

bool is_other(uint32_t code) {
  const utf8proc_category_t found = category(code);
  return found == UTF8PROC_CATEGORY_CC || found == UTF8PROC_CATEGORY_CF || found == UTF8PROC_CATEGORY_CO;
}

void append_lower(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out.push_back(static_cast<char>(code >= 'A' && code <= 'Z' ? code + 32 : code));
  } else if (code == 0x130) {
    out += "i\xCC\x87";  // the only character whose full lower case is longer than one character
  } else {
    append(out, static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code))));
  }
}

void append_upper(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out.push_back(static_cast<char>(code >= 'a' && code <= 'z' ? code - 32 : code));
  } else if (code == 0xDF) {
    out += "SS";
  } else {
    append(out, static_cast<uint32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(code))));
  }
}

std::string normalize(std::string_view text, Form form) {
  const uint32_t unstable = first_unstable(form);
  std::string out;
  out.reserve(text.size() + 16);
  const char* const end = text.data() + text.size();
  const char* copied = text.data();    // everything before is in `out`
  const char* previous = text.data();  // start of the character before `at`
  for (const char* at = text.data(); at < end;) {
    const Character character = decode_at(at);
    if (character.code < unstable) {
      previous = at;
      at += character.bytes;
      continue;
    }
    // From the character that the unstable one may combine with to the next stable one.
    const char* start = at == text.data() ? at : previous;
    while (at < end && decode_at(at).code >= unstable) at += decode_at(at).bytes;
    out.append(copied, start);
    append_normalized(out, {start, static_cast<size_t>(at - start)}, form);
    copied = previous = at;
  }
  out.append(copied, end);
  return out;
}

size_t first_grapheme(std::string_view text) {
  const char* const end = text.data() + text.size();
  Character current = decode_at(text.data());
  const char* at = text.data() + current.bytes;
  utf8proc_int32_t state = 0;
  while (at < end) {
    const Character next = decode_at(at);
    if (utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(current.code),
                                         static_cast<utf8proc_int32_t>(next.code), &state) != 0) {
      break;
    }
    at += next.bytes;
    current = next;
  }
  return static_cast<size_t>(at - text.data());
}

}  // namespace pare::unicode
