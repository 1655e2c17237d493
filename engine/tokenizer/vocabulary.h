// engine/tokenizer/vocabulary.h: token texts <-> ids, in flat memory.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pare {

// Ids may have gaps. Texts are unique and not empty.
class Vocabulary {
 public:
  // The caller has checked that neither text nor id is there yet, and that ids and bytes are within limits.h.
  void add(std::string_view text, int32_t id);

  std::optional<int32_t> find(std::string_view text) const;
  bool contains(int32_t id) const;
  std::string_view text(int32_t id) const;  // empty when there is no such id
  int64_t size() const { return count_; }   // tokens
  int64_t id_bound() const { return static_cast<int64_t>(entries_.size()); }  // highest id + 1

 private:
  struct Entry {
    uint64_t begin = 0;  // in texts_
    uint32_t bytes = 0;  // 0: no such token
  };
  void grow();
  void place(int32_t id);

  std::string texts_;
  std::vector<Entry> entries_;  // by id
  std::vector<int32_t> slots_;  // open addressing, -1: free
  int64_t count_ = 0;
};

}  // namespace pare
