// engine/tokenizer/pair_ranks.h: the merges of a BPE model, one flat table keyed by (left id, right id).
#pragma once

#include <cstdint>
#include <vector>

#include "engine/tokenizer/byte_hash.h"

namespace pare {

struct Merge {
  uint32_t rank = kNoRank;
  int32_t result = -1;  // id of the joined token
  static constexpr uint32_t kNoRank = ~0u;
  bool exists() const { return rank != kNoRank; }
};

class PairRanks {
 public:
  void reserve(size_t merges);
  // A pair set again takes the later rank.
  void set(int32_t left, int32_t right, Merge merge);

  Merge find(int32_t left, int32_t right) const {
    const uint64_t key = key_of(left, right);
    for (size_t slot = hash_u64(key) & mask_;; slot = (slot + 1) & mask_) {
      const Entry& entry = entries_[slot];
      if (entry.key == key) return entry.merge;
      if (entry.key == kFree) return {};
    }
  }

 private:
  struct Entry {
    uint64_t key = kFree;
    Merge merge;
  };
  static constexpr uint64_t kFree = ~0ull;
  static uint64_t key_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  std::vector<Entry> entries_ = std::vector<Entry>(2);
  size_t mask_ = 1;
};

}  // namespace pare
