#include "engine/tokenizer/pair_ranks.h"

#include <bit>

namespace pare {

void PairRanks::reserve(size_t merges) {
  entries_.assign(std::bit_ceil(merges * 2 + 2), {});
  mask_ = entries_.size() - 1;
}

void PairRanks::set(int32_t left, int32_t right, Merge merge) {
  const uint64_t key = key_of(left, right);
  size_t slot = hash_u64(key) & mask_;
  while (entries_[slot].key != kFree && entries_[slot].key != key) slot = (slot + 1) & mask_;
  entries_[slot] = {key, merge};
}

}  // namespace pare
