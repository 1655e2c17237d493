#include "engine/tokenizer/pattern_scanner.h"

#include "engine/tokenizer/unicode.h"

namespace pare {
namespace {

using unicode::Character;
using unicode::kLetter;
using unicode::kLineEnd;
using unicode::kLower;
using unicode::kMark;
using unicode::kNumber;
using unicode::kOtherLetter;
using unicode::kSpace;
using unicode::kUpper;

constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr uint8_t kWordOrSpace = kSpace | kLetter | kNumber;
constexpr uint8_t kUpperPart = kUpper | kOtherLetter | kMark;  // [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
constexpr uint8_t kLowerPart = kLower | kOtherLetter | kMark;  // [\p{Ll}\p{Lm}\p{Lo}\p{M}]

struct Classified {
  uint8_t kinds;
  uint8_t bytes;
};

inline Classified classify(const char* at) {
  const auto byte = static_cast<unsigned char>(*at);
  if (byte < 0x80) [[likely]]
    return {unicode::kAsciiKinds[byte], 1};
  const Character character = unicode::decode_at(at);
  return {unicode::kinds_of_wide(character.code), static_cast<uint8_t>(character.bytes)};
}

// First character from `at` on without any of the kinds.
inline const char* skip(const char* at, const char* end, uint8_t kinds) {
  while (at < end) {
    const Classified here = classify(at);
    if ((here.kinds & kinds) == 0) break;
    at += here.bytes;
  }
  return at;
}

// First character from `at` on with any of the kinds.
inline const char* skip_other(const char* at, const char* end, uint8_t kinds) {
  while (at < end) {
    const Classified here = classify(at);
    if ((here.kinds & kinds) != 0) break;
    at += here.bytes;
  }
  return at;
}

// End of 's|'t|'re|'ve|'m|'ll|'d at `at`, or `at`. Ignoring case, U+017F (long s) folds to s.
template <bool kIgnoreCase>
const char* contraction(const char* at, const char* end) {
  if (end - at < 2 || *at != '\'') return at;
  const auto lower = [](char c) {
    return kIgnoreCase && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  };
  const char first = lower(at[1]);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
  if (end - at < 3) return at;
  if (kIgnoreCase && at[1] == '\xC5' && at[2] == '\xBF') return at + 3;
  const char second = lower(at[2]);
  if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l')) {
    return at + 3;
  }
  return at;
}

// \s+(?!\S)|\s+ where a run of white space ends at `run_end`: all of it at the end of the text, else all but
// the last character, which belongs to the next match, unless it is the only one.
const char* end_of_spaces(const char* at, const char* run_end, const char* end) {
  if (run_end == end) return end;
  const char* last = run_end - unicode::decode_before(at, run_end).bytes;
  return last == at ? run_end : last;
}

const char* match_gpt2(const char* at, const char* end) {
  if (const char* stop = contraction<false>(at, end); stop != at) return stop;
  const char* body = *at == ' ' && at + 1 < end ? at + 1 : at;
  const Classified first = classify(body);
  if ((first.kinds & kLetter) != 0) return skip(body + first.bytes, end, kLetter);
  if ((first.kinds & kNumber) != 0) return skip(body + first.bytes, end, kNumber);
  if ((first.kinds & kSpace) == 0) return skip_other(body + first.bytes, end, kWordOrSpace);
  return end_of_spaces(at, skip(body, end, kSpace), end);
}

// \s*[\r\n]+ : up to the last line end of the run of white space.  \s+(?!\S)|\s+ : without one.
const char* match_spaces_with_lines(const char* at, const char* end) {
  const char* last_line_end = nullptr;
  const char* run_end = at;
  while (run_end < end) {
    const Classified here = classify(run_end);
    if ((here.kinds & kSpace) == 0) break;
    run_end += here.bytes;
    if ((here.kinds & kLineEnd) != 0) last_line_end = run_end;
  }
  return last_line_end != nullptr ? last_line_end : end_of_spaces(at, run_end, end);
}

const char* match_numbers(const char* at, const char* end, int most) {
  for (int i = 0; i < most && at < end; ++i) {
    const Classified here = classify(at);
    if ((here.kinds & kNumber) == 0) break;
    at += here.bytes;
  }
  return at;
}

// ` ?[^\s\p{L}\p{N}]+[\r\n]*` ("/" belongs to the tail in the GPT-4o family), or nullptr.
template <bool kSlash>
const char* match_symbols(const char* at, const char* end) {
  const char* body = *at == ' ' ? at + 1 : at;
  const char* stop = skip_other(body, end, kWordOrSpace);
  if (stop == body) return nullptr;
  while (stop < end && (*stop == '\r' || *stop == '\n' || (kSlash && *stop == '/'))) ++stop;
  return stop;
}

template <int kMostDigits>
const char* match_llama3(const char* at, const char* end) {
  if (const char* stop = contraction<true>(at, end); stop != at) return stop;
  const Classified first = classify(at);
  if ((first.kinds & kLetter) != 0) return skip(at + first.bytes, end, kLetter);
  if ((first.kinds & kNumber) != 0) return match_numbers(at, end, kMostDigits);
  if ((first.kinds & kLineEnd) == 0) {  // [^\r\n\p{L}\p{N}]\p{L}+
    const char* letters = at + first.bytes;
    const char* stop = skip(letters, end, kLetter);
    if (stop != letters) return stop;
  }
  if (const char* stop = match_symbols<false>(at, end)) return stop;
  return match_spaces_with_lines(at, end);
}

// [U]*[L]+ from `at`, or nullptr. A greedy run of U that is not followed by a lower-case letter gives back up
// to its last character that is in both classes.
const char* match_lower_word(const char* at, const char* end) {
  const char* last_shared_end = nullptr;
  while (at < end) {
    const Classified here = classify(at);
    if ((here.kinds & kUpperPart) == 0) {
      if ((here.kinds & kLower) != 0) return skip(at + here.bytes, end, kLowerPart);
      break;
    }
    at += here.bytes;
    if ((here.kinds & kLowerPart) != 0) last_shared_end = at;
  }
  return last_shared_end;
}

// [U]+[L]* from `at`, or nullptr.
const char* match_upper_word(const char* at, const char* end) {
  const char* stop = skip(at, end, kUpperPart);
  return stop == at ? nullptr : skip(stop, end, kLowerPart);
}

const char* match_gpt4o(const char* at, const char* end) {
  const Classified first = classify(at);
  if ((first.kinds & kNumber) != 0) return match_numbers(at, end, 3);
  const bool may_lead = (first.kinds & (kLetter | kLineEnd)) == 0;  // [^\r\n\p{L}\p{N}]
  const char* stop = nullptr;
  if (may_lead) stop = match_lower_word(at + first.bytes, end);
  if (stop == nullptr) stop = match_lower_word(at, end);
  if (stop == nullptr && may_lead) stop = match_upper_word(at + first.bytes, end);
  if (stop == nullptr) stop = match_upper_word(at, end);
  if (stop != nullptr) return contraction<true>(stop, end);
  if ((stop = match_symbols<true>(at, end)) != nullptr) return stop;
  return match_spaces_with_lines(at, end);
}

template <auto kMatch>
size_t scan_with(std::string_view text, size_t begin, std::span<Piece> out) {
  const char* const base = text.data();
  const char* const end = base + text.size();
  const char* at = base + begin;
  size_t count = 0;
  while (at < end && count < out.size()) {
    const char* stop = kMatch(at, end);
    out[count++] = {static_cast<size_t>(at - base), static_cast<size_t>(stop - base)};
    at = stop;
  }
  return count;
}

bool is_ascii_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

}  // namespace

std::string_view PatternScanner::pattern_of(Kind kind) {
  switch (kind) {
    case Kind::gpt2:
      return kGpt2;
    case Kind::llama3:
      return kLlama3;
    case Kind::qwen2:
      return kQwen2;
    case Kind::gpt4o:
      break;
  }
  return kGpt4o;
}

std::optional<PatternScanner> PatternScanner::recognise(std::string_view pattern) {
  for (Kind kind : {Kind::gpt2, Kind::llama3, Kind::qwen2, Kind::gpt4o}) {
    if (pattern == pattern_of(kind)) return PatternScanner(kind);
  }
  return std::nullopt;
}

size_t PatternScanner::scan(std::string_view text, size_t begin, std::span<Piece> out) const {
  switch (kind_) {
    case Kind::gpt2:
      return scan_with<match_gpt2>(text, begin, out);
    case Kind::llama3:
      return scan_with<match_llama3<3>>(text, begin, out);
    case Kind::qwen2:
      return scan_with<match_llama3<1>>(text, begin, out);
    case Kind::gpt4o:
      break;
  }
  return scan_with<match_gpt4o>(text, begin, out);
}

size_t PatternScanner::safe_cut(std::string_view text, size_t wanted) {
  for (size_t i = wanted == 0 ? 1 : wanted; i + 1 < text.size(); ++i) {
    if (text[i] == ' ' && is_ascii_letter(text[i - 1]) && is_ascii_letter(text[i + 1])) return i;
  }
  return text.size();
}

}  // namespace pare
