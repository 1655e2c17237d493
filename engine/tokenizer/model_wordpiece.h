// engine/tokenizer/model_wordpiece.h: greedy longest match from the left (BERT).
#pragma once

#include <string>

#include "engine/tokenizer/byte_trie.h"
#include "engine/tokenizer/model.h"

namespace pare {

class WordPieceModel : public Model {
 public:
  // Tokens inside a word carry `continuing_prefix` ("##"). A word that cannot be covered, or of more than
  // `max_characters` characters, is one unknown token.
  WordPieceModel(Vocabulary vocabulary, int32_t unknown, std::string_view continuing_prefix,
                 int64_t max_characters);
  std::string_view type() const override { return "WordPiece"; }

 protected:
  void encode_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const override;

 private:
  ByteTrie trie_;
  int32_t unknown_;
  int64_t max_characters_;
  bool has_prefix_;
  uint32_t inside_;  // node behind the prefix; the root when no token has it
};

}  // namespace pare
