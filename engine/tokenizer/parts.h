// engine/tokenizer/parts.h: what a loaded tokenizer consists of. Private to this folder.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine/tokenizer/load.h"
#include "engine/tokenizer/tokenizer.h"

namespace pare {

// Working memory with warm caches, lent to one encoding at a time.
class ScratchPool {
 public:
  class Lease {
   public:
    explicit Lease(ScratchPool& pool) : pool_(pool), scratch_(pool.take()) {}
    ~Lease() { pool_.put(std::move(scratch_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Scratch& operator*() { return *scratch_; }

   private:
    ScratchPool& pool_;
    std::unique_ptr<Scratch> scratch_;
  };

 private:
  static constexpr size_t kKept = 64;
  std::unique_ptr<Scratch> take();
  void put(std::unique_ptr<Scratch> scratch) noexcept;

  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> free_;
};

struct Tokenizer::Parts {
  std::string path;
  NormalizerChain normalizer;
  std::vector<PreTokenizerStep> pre_tokenizers;  // without the scanner below and without a folded byte map
  std::optional<PatternScanner> scanner;         // the last cut, done while the model reads
  std::unique_ptr<const Model> model;
  bool byte_level = false;

  std::vector<AddedToken> added;
  AddedTokenMatcher raw_matcher, normalized_matcher;
  DecoderChain decoder;
  Framing framing;
  std::optional<int32_t> bos, eos;

  int64_t id_bound = 0;
  int64_t token_count = 0;
  std::vector<int32_t> added_by_id;  // index in `added`, -1: none
  // With a byte-level decoder alone, the bytes of every token.
  std::string token_bytes;
  std::vector<uint64_t> token_bytes_end;  // by id; empty: decode through the chain

  Hash128 hash;
  mutable ScratchPool scratches;

  const AddedToken* added_token(int32_t id) const;
  // What the decoder sees; empty when there is no such token.
  std::string_view decoder_text(int32_t id) const;
};

}  // namespace pare
