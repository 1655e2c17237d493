// engine/tokenizer/byte_hash.h: a fast hash of short byte strings for in-memory tables; never stored.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace pare {

// Both halves of the 128-bit product, folded.
inline uint64_t fold_product(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

inline constexpr uint64_t kHashSeed = 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio
inline constexpr uint64_t kHashMultiplier = 0xD6E8FEB86659FD93u;

inline uint64_t hash_u64(uint64_t value) {
  return fold_product(value ^ kHashSeed, kHashMultiplier);
}

inline uint64_t hash_bytes(std::string_view bytes) {
  const auto word = [](const char* at) {
    uint64_t value;
    std::memcpy(&value, at, sizeof value);
    return value;
  };
  const char* at = bytes.data();
  size_t left = bytes.size();
  uint64_t state = kHashSeed ^ left;
  while (left > 16) {
    state = fold_product(state ^ word(at), kHashMultiplier ^ word(at + 8));
    at += 16;
    left -= 16;
  }
  uint64_t low = 0, high = 0;
  if (left >= 8) {
    low = word(at);
    high = word(at + left - 8);  // overlaps: every byte is in one of the two
  } else if (left >= 4) {
    uint32_t first, last;
    std::memcpy(&first, at, 4);
    std::memcpy(&last, at + left - 4, 4);
    low = first;
    high = last;
  } else if (left > 0) {
    low = static_cast<unsigned char>(at[0]);
    high = static_cast<uint64_t>(static_cast<unsigned char>(at[left / 2])) << 8 |
           static_cast<unsigned char>(at[left - 1]);
  }
  return fold_product(fold_product(state ^ low, kHashMultiplier ^ high), kHashSeed);
}

}  // namespace pare
