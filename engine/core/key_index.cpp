#include "engine/core/key_index.h"

#include <sys/random.h>

#include <chrono>
#include <string_view>
#include <utility>

#include "engine/core/hash.h"

namespace pare {
namespace {

constexpr size_t kSearchedDirectly = 16;

uint64_t process_seed() {
  static const uint64_t seed = [] {
    uint64_t value = 0;
    if (::getrandom(&value, sizeof value, GRND_NONBLOCK) != static_cast<ssize_t>(sizeof value)) {
      value = static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
    }
    return value;
  }();
  return seed;
}

uint32_t hash_key(std::string_view key) {
  return static_cast<uint32_t>(xxh3_64_seeded(key, process_seed()) >> 32);
}

}  // namespace

void KeyIndex::insert(Slot slot) {
  const size_t mask = slots_.size() - 1;
  size_t at = slot.hash & mask;
  while (slots_[at].position != 0) at = (at + 1) & mask;
  slots_[at] = slot;
  ++used_;
}

void KeyIndex::grow(size_t slots) {
  const std::vector<Slot> before = std::exchange(slots_, std::vector<Slot>(slots));
  used_ = 0;
  for (const Slot& slot : before) {
    if (slot.position != 0) insert(slot);
  }
}

bool KeyIndex::last_is_duplicate(const Json::Object& members) {
  const std::string& key = members.back().first;
  const size_t last = members.size() - 1;
  if (members.size() <= kSearchedDirectly) {
    for (size_t i = 0; i < last; ++i) {
      if (members[i].first == key) return true;
    }
    return false;
  }
  if (slots_.empty()) {
    grow(4 * kSearchedDirectly);
    for (size_t i = 0; i < last; ++i) insert({hash_key(members[i].first), static_cast<uint32_t>(i + 1)});
  }
  if (2 * (used_ + 1) > slots_.size()) grow(2 * slots_.size());
  const uint32_t hash = hash_key(key);
  const size_t mask = slots_.size() - 1;
  for (size_t at = hash & mask; slots_[at].position != 0; at = (at + 1) & mask) {
    if (slots_[at].hash == hash && members[slots_[at].position - 1].first == key) return true;
  }
  insert({hash, static_cast<uint32_t>(last + 1)});
  return false;
}

}  // namespace pare
