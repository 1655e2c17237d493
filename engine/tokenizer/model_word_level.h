// engine/tokenizer/model_word_level.h: a piece is a token, or unknown.
#pragma once

#include "engine/tokenizer/model.h"

namespace pare {

class WordLevelModel : public Model {
 public:
  WordLevelModel(Vocabulary vocabulary, int32_t unknown) : Model(std::move(vocabulary)), unknown_(unknown) {}
  std::string_view type() const override { return "WordLevel"; }

 protected:
  void encode_piece(std::string_view piece, Scratch&, std::vector<int32_t>& ids) const override {
    ids.push_back(vocabulary_.find(piece).value_or(unknown_));
  }

 private:
  int32_t unknown_;
};

}  // namespace pare
