// engine/tokenizer/model.h: from a piece of text to ids. One subclass per model type of tokenizer.json.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/piece.h"
#include "engine/tokenizer/vocabulary.h"
#include "engine/tokenizer/word_cache.h"

namespace pare {

// Memory that encoding reuses. One per thread of work.
struct Scratch {
  struct Symbol {
    int32_t id = -1;  // -1: merged into the one before
    uint32_t previous = 0, next = 0;
  };
  struct Candidate {
    uint64_t order = 0;  // rank << 32 | position: lowest rank first, leftmost on ties
    int32_t result = -1;
  };
  struct PathNode {
    double score = 0.0;
    uint32_t start = 0;
    int32_t id = -2;  // -2: not reached
  };

  WordCache cache;
  std::vector<int32_t> symbols;
  std::vector<uint32_t> ranks;
  std::vector<int32_t> results;
  std::vector<Symbol> list;
  std::vector<Candidate> heap;
  std::vector<PathNode> path;
  std::string text;
};

class Model {
 public:
  virtual ~Model() = default;

  // Appends the ids of all pieces of `text`, in order. Pieces are not empty and shorter than 2 GiB.
  void encode(std::string_view text, std::span<const Piece> pieces, Scratch& scratch,
              std::vector<int32_t>& ids) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }
  virtual std::string_view type() const = 0;  // as in the file

 protected:
  explicit Model(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}
  // Appends the ids of one piece; the result depends on the piece alone.
  virtual void encode_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const = 0;

  Vocabulary vocabulary_;
};

// Ids of "<0x00>" to "<0xFF>"; -1 where the vocabulary has none.
std::vector<int32_t> byte_token_ids(const Vocabulary& vocabulary);

}  // namespace pare
