// engine/tokenizer/charsmap.h: the character map of SentencePiece ("precompiled_charsmap").
//
// Layout: u32 byte length of a Darts double-array trie, the trie (u32 units), then NUL-terminated replacement
// strings; a trie value is an offset into the strings.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/result.h"

namespace pare {

class Charsmap {
 public:
  // `blob` is the decoded map. Everything reachable is checked: units inside the array, values at a character
  // of the strings, no cycle. Error: TK16 (malformed), with the offset in the blob.
  static Result<Charsmap> parse(std::string_view blob, const std::string& path, const std::string& where);

  // What the shortest key at the beginning of `text` is replaced by, as the reference implementation does.
  std::optional<std::string_view> replacement(std::string_view text) const;

  // Each grapheme cluster shorter than six bytes as a whole, else each of its characters.
  std::string apply(std::string_view text) const;

 private:
  std::vector<uint32_t> units_;
  std::string strings_;
};

// RFC 4648 with padding; nothing on any other character or length.
std::optional<std::string> decode_base64(std::string_view text);

}  // namespace pare
