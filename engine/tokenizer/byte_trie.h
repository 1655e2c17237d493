// engine/tokenizer/byte_trie.h: all keys of a set that start at a place of a text.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace pare {

// Keys are byte strings with an int32 value. Edges live in one open-addressing table keyed by (node, byte);
// the edges of the root, where every search starts, in a plain array.
class ByteTrie {
 public:
  static constexpr int32_t kNone = -1;
  static constexpr uint32_t kRoot = 0;

  ByteTrie();
  // A key added again keeps its first value. `value` is not negative.
  void add(std::string_view key, int32_t value);

  // The node behind `byte`, or kRoot when there is none (the root is never reached again).
  uint32_t step(uint32_t node, char byte) const;
  // The node at the end of `key`, or kRoot.
  uint32_t walk(std::string_view key) const;
  int32_t value(uint32_t node) const { return values_[node]; }
  bool starts_with(char byte) const { return root_[static_cast<unsigned char>(byte)] != kRoot; }
  bool empty() const { return values_.size() == 1; }

  struct Match {
    size_t bytes = 0;  // 0: none
    int32_t value = kNone;
  };
  // The longest key at the beginning of `text`, going on from `node`.
  Match longest(std::string_view text, uint32_t node = kRoot) const;

 private:
  struct Edge {
    uint64_t key = kFree;  // node << 8 | byte
    uint32_t target = kRoot;
  };
  static constexpr uint64_t kFree = ~0ull;
  void insert(uint64_t key, uint32_t target);

  std::vector<uint32_t> root_;
  std::vector<Edge> edges_;
  uint64_t edge_count_ = 0;
  std::vector<int32_t> values_;  // by node
};

}  // namespace pare
