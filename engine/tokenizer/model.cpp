#include "engine/tokenizer/model.h"

#include <fmt/core.h>

#include <array>

namespace pare {

void Model::encode(std::string_view text, std::span<const Piece> pieces, Scratch& scratch,
                   std::vector<int32_t>& ids) const {
  // In small groups: hash all, so that the cache lines are on their way when they are asked for.
  constexpr size_t kGroup = 16;
  std::array<uint64_t, kGroup> hashes;
  for (size_t first = 0; first < pieces.size(); first += kGroup) {
    const size_t count = std::min(kGroup, pieces.size() - first);
    for (size_t i = 0; i < count; ++i) {
      const std::string_view piece = pieces[first + i].of(text);
      if (piece.size() > WordCache::kMaxBytes) continue;
      hashes[i] = WordCache::hash(piece);
      scratch.cache.prefetch(hashes[i]);
    }
    for (size_t i = 0; i < count; ++i) {
      const std::string_view piece = pieces[first + i].of(text);
      if (piece.size() > WordCache::kMaxBytes) {
        encode_piece(piece, scratch, ids);
        continue;
      }
      if (const WordCache::Entry* known = scratch.cache.find(piece, hashes[i])) {
        ids.insert(ids.end(), known->ids, known->ids + known->count);
        continue;
      }
      const size_t before = ids.size();
      encode_piece(piece, scratch, ids);
      scratch.cache.store(piece, hashes[i], std::span(ids).subspan(before));
    }
  }
}

std::vector<int32_t> byte_token_ids(const Vocabulary& vocabulary) {
  std::vector<int32_t> ids(256);
  for (size_t byte = 0; byte < ids.size(); ++byte) {
    ids[byte] = vocabulary.find(fmt::format("<0x{:02X}>", byte)).value_or(-1);
  }
  return ids;
}

}  // namespace pare
