#include "engine/tokenizer/byte_trie.h"

#include "engine/tokenizer/byte_hash.h"

namespace pare {

ByteTrie::ByteTrie() : root_(256, kRoot), edges_(64), values_(1, kNone) {}

void ByteTrie::insert(uint64_t key, uint32_t target) {
  if ((edge_count_ + 1) * 2 > edges_.size()) {
    std::vector<Edge> old(edges_.size() * 2);
    old.swap(edges_);
    edge_count_ = 0;
    for (const Edge& edge : old) {
      if (edge.key != kFree) insert(edge.key, edge.target);
    }
  }
  const size_t mask = edges_.size() - 1;
  size_t slot = hash_u64(key) & mask;
  while (edges_[slot].key != kFree) slot = (slot + 1) & mask;
  edges_[slot] = {key, target};
  ++edge_count_;
}

uint32_t ByteTrie::step(uint32_t node, char byte) const {
  const auto label = static_cast<unsigned char>(byte);
  if (node == kRoot) return root_[label];
  const uint64_t key = static_cast<uint64_t>(node) << 8 | label;
  const size_t mask = edges_.size() - 1;
  size_t slot = hash_u64(key) & mask;
  while (edges_[slot].key != key) {
    if (edges_[slot].key == kFree) return kRoot;
    slot = (slot + 1) & mask;
  }
  return edges_[slot].target;
}

uint32_t ByteTrie::walk(std::string_view key) const {
  uint32_t node = kRoot;
  for (char byte : key) {
    node = step(node, byte);
    if (node == kRoot) break;
  }
  return node;
}

void ByteTrie::add(std::string_view key, int32_t value) {
  uint32_t node = kRoot;
  for (char byte : key) {
    uint32_t next = step(node, byte);
    if (next == kRoot) {
      next = static_cast<uint32_t>(values_.size());
      values_.push_back(kNone);
      if (node == kRoot) {
        root_[static_cast<unsigned char>(byte)] = next;
      } else {
        insert(static_cast<uint64_t>(node) << 8 | static_cast<unsigned char>(byte), next);
      }
    }
    node = next;
  }
  if (values_[node] == kNone) values_[node] = value;
}

ByteTrie::Match ByteTrie::longest(std::string_view text, uint32_t node) const {
  Match best;
  for (size_t i = 0; i < text.size(); ++i) {
    node = step(node, text[i]);
    if (node == kRoot) break;
    if (values_[node] != kNone) best = {i + 1, values_[node]};
  }
  return best;
}

}  // namespace pare
