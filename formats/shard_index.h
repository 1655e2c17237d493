// formats/shard_index.h: model.safetensors.index.json; internal to formats.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/core/result.h"

namespace pare {

inline constexpr const char* kSingleWeights = "model.safetensors";
inline constexpr const char* kShardIndex = "model.safetensors.index.json";

struct ShardIndex {
  std::vector<std::pair<std::string, std::string>> weight_map;  // tensor, shard; sorted by tensor
  std::vector<std::string> shards;                              // distinct, sorted
  std::optional<uint64_t> total_size;

  // Shard of a tensor; nullptr when the index does not name it.
  const std::string* shard_of(std::string_view tensor) const;
  // A tensor of the shard, to name the entry that asked for it.
  std::string entry_of(std::string_view shard) const;
};

// Rules IX12, IX13, IX18; names of shards are judged when they are opened.
Result<ShardIndex> parse_shard_index(std::string_view text, std::string_view path);

// Text of the index of a checkpoint we write.
std::string shard_index_text(const ShardIndex& index);

}  // namespace pare
