// engine/tokenizer/word_cache.h: the ids of pieces seen before. Bounded, one per thread of work, never for
// results: a model gives the same ids with or without it.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>

#include "engine/tokenizer/byte_hash.h"

namespace pare {

// One entry per cache line, direct-mapped; a newer piece replaces an older one. Longer pieces and pieces of
// more tokens are not kept: they rarely come again.
class WordCache {
 public:
  static constexpr size_t kMaxBytes = 22;
  static constexpr size_t kMaxIds = 8;

  struct Entry {
    uint64_t hash = 0;
    uint8_t bytes = 0;  // 0: free
    uint8_t count = 0;
    char text[kMaxBytes];
    int32_t ids[kMaxIds];
  };
  static_assert(sizeof(Entry) == 64);

  WordCache() : entries_(std::make_unique<Entry[]>(kEntries)) {}

  static uint64_t hash(std::string_view piece) { return hash_bytes(piece); }
  void prefetch(uint64_t hash) const { __builtin_prefetch(&entries_[hash % kEntries]); }

  // The entry of `piece`, or nullptr. 1 <= piece.size().
  const Entry* find(std::string_view piece, uint64_t hash) const {
    const Entry& entry = entries_[hash % kEntries];
    const bool same = entry.hash == hash && entry.bytes == piece.size() &&
                      std::memcmp(entry.text, piece.data(), piece.size()) == 0;
    return same ? &entry : nullptr;
  }
  void store(std::string_view piece, uint64_t hash, std::span<const int32_t> ids) {
    if (piece.size() > kMaxBytes || ids.size() > kMaxIds) return;
    Entry& entry = entries_[hash % kEntries];
    entry.hash = hash;
    entry.bytes = static_cast<uint8_t>(piece.size());
    entry.count = static_cast<uint8_t>(ids.size());
    std::memcpy(entry.text, piece.data(), piece.size());
    if (!ids.empty()) std::memcpy(entry.ids, ids.data(), ids.size_bytes());
  }

 private:
  static constexpr size_t kEntries = 16'384;  // 1 MiB
  std::unique_ptr<Entry[]> entries_;
};

}  // namespace pare
