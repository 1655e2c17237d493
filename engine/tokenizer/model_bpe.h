// engine/tokenizer/model_bpe.h: byte-pair encoding over characters, or over bytes when the pieces arrive raw.
#pragma once

#include <array>
#include <optional>
#include <string>

#include "engine/tokenizer/model.h"
#include "engine/tokenizer/pair_ranks.h"

namespace pare {

struct BpeOptions {
  std::optional<int32_t> unknown;
  std::string continuing_prefix;  // before every character but the first
  std::string end_suffix;         // behind the last character
  bool fuse_unknown = false;      // a run of unknown characters is one token
  bool byte_fallback = false;     // unknown characters become "<0xHH>"
  bool ignore_merges = false;     // a piece that is a token is that token
  // Pieces are raw bytes and each byte stands for its character of byte_level.h. The loader sets it when
  // byte-level mapping is the last step before the model, and leaves that step out.
  bool raw_bytes = false;
};

class BpeModel : public Model {
 public:
  BpeModel(Vocabulary vocabulary, PairRanks merges, BpeOptions options);
  std::string_view type() const override { return "BPE"; }
  const BpeOptions& options() const { return options_; }

 protected:
  void encode_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const override;

 private:
  void symbols_of_bytes(std::string_view piece, Scratch& scratch) const;
  void symbols_of_characters(std::string_view piece, Scratch& scratch) const;

  PairRanks merges_;
  BpeOptions options_;
  std::vector<int32_t> fallback_;        // by byte, "<0xHH>"
  std::array<int32_t, 256> raw_symbol_;  // by byte, its byte-level character; -1: not in the vocabulary
};

}  // namespace pare
