// engine/core/key_index.h: which keys an object being parsed already has; internal to core.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/core/json.h"

namespace pare {

// Finds duplicates while members are appended. Small objects are searched directly; a table is built for
// large ones. Its hash is keyed per process, so that a file cannot be made to collide; results never depend
// on the key.
class KeyIndex {
 public:
  // Whether the last member's key occurs among the members before it. To be called after every append.
  bool last_is_duplicate(const Json::Object& members);

 private:
  struct Slot {
    uint32_t hash = 0;
    uint32_t position = 0;  // in the object, plus one; 0 is an empty slot
  };
  void insert(Slot slot);
  void grow(size_t slots);

  std::vector<Slot> slots_;  // a power of two, at most half full
  size_t used_ = 0;
};

}  // namespace pare
