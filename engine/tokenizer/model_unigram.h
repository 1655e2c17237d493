// engine/tokenizer/model_unigram.h: the most probable cut of a piece into scored tokens (Viterbi).
// Source: Kudo, "Subword regularization" (2018).
#pragma once

#include <optional>

#include "engine/tokenizer/byte_trie.h"
#include "engine/tokenizer/model.h"

namespace pare {

class UnigramModel : public Model {
 public:
  // `scores` by id, finite.
  UnigramModel(Vocabulary vocabulary, std::vector<double> scores, int32_t unknown, bool byte_fallback);
  std::string_view type() const override { return "Unigram"; }

 protected:
  void encode_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const override;

 private:
  void best_paths(std::string_view piece, std::vector<Scratch::PathNode>& path) const;
  void append_unknown(std::string_view run, std::vector<int32_t>& ids) const;

  ByteTrie trie_;
  std::vector<double> scores_;
  int32_t unknown_;
  bool byte_fallback_;
  double unknown_score_ = 0.0;  // lowest score - 10
  std::vector<int32_t> byte_ids_;
};

}  // namespace pare
