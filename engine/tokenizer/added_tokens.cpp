#include "engine/tokenizer/added_tokens.h"

#include <algorithm>

#include "engine/tokenizer/unicode.h"

namespace pare {
namespace {

bool touches_a_word(std::string_view text, Piece match) {
  const char* const begin = text.data();
  const bool left =
      match.begin > 0 && unicode::is_word(unicode::decode_before(begin, begin + match.begin).code);
  const bool right = match.end < text.size() && unicode::is_word(unicode::decode_at(begin + match.end).code);
  return left || right;
}

size_t spaces_begin(std::string_view text, size_t at, size_t lowest) {
  while (at > lowest) {
    const unicode::Character before = unicode::decode_before(text.data(), text.data() + at);
    if (!unicode::is_space(before.code)) break;
    at -= before.bytes;
  }
  return at;
}

size_t spaces_end(std::string_view text, size_t at) {
  while (at < text.size()) {
    const unicode::Character next = unicode::decode_at(text.data() + at);
    if (!unicode::is_space(next.code)) break;
    at += next.bytes;
  }
  return at;
}

}  // namespace

void AddedTokenMatcher::add(const AddedToken* token) {
  trie_.add(token->pattern, static_cast<int32_t>(tokens_.size()));
  tokens_.push_back(token);
}

void AddedTokenMatcher::split(std::string_view text, bool parse_special,
                              std::vector<Section>& sections) const {
  size_t covered = 0;
  for (size_t at = 0; at < text.size() && !empty();) {
    if (!trie_.starts_with(text[at])) {
      ++at;
      continue;
    }
    const ByteTrie::Match found = trie_.longest(text.substr(at));
    if (found.bytes == 0) {
      ++at;
      continue;
    }
    const AddedToken& token = *tokens_[static_cast<size_t>(found.value)];
    Piece match{at, at + found.bytes};
    at = match.end;  // a match that is turned down is passed over whole
    if (token.special && !parse_special) continue;
    if (token.single_word && touches_a_word(text, match)) continue;
    // A match inside white space that the one before has swallowed takes up where that one ended.
    if (token.lstrip) match.begin = spaces_begin(text, match.begin, std::min(covered, match.begin));
    if (token.rstrip) match.end = spaces_end(text, match.end);
    match.begin = std::max(match.begin, std::min(covered, match.end));
    if (covered < match.begin) sections.push_back({{covered, match.begin}, nullptr});
    sections.push_back({match, &token});
    covered = match.end;
  }
  if (covered < text.size()) sections.push_back({{covered, text.size()}, nullptr});
}

}  // namespace pare
