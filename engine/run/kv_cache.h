// engine/run/kv_cache.h: keys and values of all blocks for one or more sequences.
#pragma once

#include <vector>

#include "engine/models/model.h"

namespace pare {

class KvCache {
 public:
  // Room for `capacity` positions of `sequences` sequences, in the form of config.kv: per position, block and
  // head 8 d bytes as floats (4 d where the device keeps bf16), 2 (d + 2) as int8, 2 (ceil(d / 2) + 3) as
  // int4. Exit 6.
  static Result<KvCache> allocate(const ModelConfig& config, int64_t sequences, int64_t capacity,
                                  Device device);
  static uint64_t bytes_for(const ModelConfig& config, int64_t sequences, int64_t capacity);

  BlockCache& block(int index) { return blocks_[size_t(index)]; }
  int64_t capacity() const { return capacity_; }
  int64_t length() const { return length_; }  // positions filled
  void advance(int64_t tokens) { length_ += tokens; }
  void truncate(int64_t length) { length_ = length; }

 private:
  std::vector<BlockCache> blocks_;
  int64_t capacity_ = 0, length_ = 0;
};

}  // namespace pare
