#include "engine/tokenizer/vocabulary.h"

#include "engine/tokenizer/byte_hash.h"

namespace pare {

std::string_view Vocabulary::text(int32_t id) const {
  if (!contains(id)) return {};
  const Entry& entry = entries_[static_cast<size_t>(id)];
  return std::string_view(texts_).substr(entry.begin, entry.bytes);
}

bool Vocabulary::contains(int32_t id) const {
  return id >= 0 && static_cast<size_t>(id) < entries_.size() && entries_[static_cast<size_t>(id)].bytes > 0;
}

std::optional<int32_t> Vocabulary::find(std::string_view wanted) const {
  if (slots_.empty()) return std::nullopt;
  const size_t mask = slots_.size() - 1;
  for (size_t slot = hash_bytes(wanted) & mask; slots_[slot] >= 0; slot = (slot + 1) & mask) {
    if (text(slots_[slot]) == wanted) return slots_[slot];
  }
  return std::nullopt;
}

void Vocabulary::place(int32_t id) {
  const size_t mask = slots_.size() - 1;
  size_t slot = hash_bytes(text(id)) & mask;
  while (slots_[slot] >= 0) slot = (slot + 1) & mask;
  slots_[slot] = id;
}

void Vocabulary::grow() {
  slots_.assign(slots_.empty() ? 1024 : slots_.size() * 2, -1);
  for (size_t id = 0; id < entries_.size(); ++id) {
    if (entries_[id].bytes > 0) place(static_cast<int32_t>(id));
  }
}

void Vocabulary::add(std::string_view added, int32_t id) {
  const auto index = static_cast<size_t>(id);
  if (index >= entries_.size()) entries_.resize(index + 1);
  // Grown before the entry exists, so that grow() does not place it as well.
  if (static_cast<size_t>(count_ + 1) * 2 > slots_.size()) grow();
  entries_[index] = {texts_.size(), static_cast<uint32_t>(added.size())};
  texts_ += added;
  ++count_;
  place(id);
}

}  // namespace pare
