// engine/tokenizer/added_tokens.h: tokens that are cut out of the text before the model sees it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/byte_trie.h"
#include "engine/tokenizer/piece.h"

namespace pare {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // swallows the white space to its left
  bool rstrip = false;       // and to its right
  bool normalized = false;   // looked for after normalisation, as `pattern`
  bool special = false;
  std::string pattern;  // what is looked for; set by the loader
};

// The tokens of one pass. Matching is leftmost, longest first.
class AddedTokenMatcher {
 public:
  void add(const AddedToken* token);  // must outlive the matcher; the first of two equal patterns stays
  bool empty() const { return trie_.empty(); }

  struct Section {
    Piece range;
    const AddedToken* token = nullptr;  // nullptr: ordinary text
  };
  // Appends sections that cover `text`. With parse_special false, special tokens are ordinary text.
  void split(std::string_view text, bool parse_special, std::vector<Section>& sections) const;

 private:
  std::vector<const AddedToken*> tokens_;
  ByteTrie trie_;
};

}  // namespace pare
