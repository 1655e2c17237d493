#include "formats/shard_index.h"

#include <algorithm>

#include "engine/core/json.h"
#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "formats/fault.h"

namespace pare {

const std::string* ShardIndex::shard_of(std::string_view tensor) const {
  const auto found =
      std::lower_bound(weight_map.begin(), weight_map.end(), tensor,
                       [](const auto& entry, std::string_view wanted) { return entry.first < wanted; });
  return found != weight_map.end() && found->first == tensor ? &found->second : nullptr;
}

std::string ShardIndex::entry_of(std::string_view shard) const {
  const auto found = std::find_if(weight_map.begin(), weight_map.end(),
                                  [&](const auto& entry) { return entry.second == shard; });
  return "weight_map[" + quote(found == weight_map.end() ? std::string_view() : found->first) + "]";
}

Result<ShardIndex> parse_shard_index(std::string_view text, std::string_view path) {
  auto parsed = parse_json(text, path, {.max_bytes = limits::kConfigBytes}, "IX12");
  if (!parsed) {
    if (parsed.error().what == "duplicate key") parsed.error().rule = "IX13";
    return parsed.error();
  }
  const Json* map = parsed->find("weight_map");
  if (map == nullptr) return malformed("IX12", path, "weight_map", "missing key");
  if (!map->is_object()) return malformed("IX12", path, "weight_map", "not an object", map->kind_name());
  if (map->size() > limits::kTensors) {
    return over_cap("ST25", path, "weight_map", "tensor count is over the limit", map->size(),
                    limits::kTensors);
  }
  ShardIndex index;
  for (const auto& [tensor, shard] : map->members()) {
    if (!shard.is_string()) {
      return malformed("IX12", path, "weight_map[" + quote(tensor) + "]", "not a string", shard.kind_name());
    }
    index.weight_map.emplace_back(tensor, shard.as_string());
    index.shards.push_back(shard.as_string());
  }
  std::sort(index.weight_map.begin(), index.weight_map.end());
  std::sort(index.shards.begin(), index.shards.end());
  index.shards.erase(std::unique(index.shards.begin(), index.shards.end()), index.shards.end());
  if (index.shards.size() > limits::kShards) {
    return over_cap("IX18", path, "weight_map", "number of shards is over the limit", index.shards.size(),
                    limits::kShards);
  }
  if (const Json* metadata = parsed->find("metadata")) {
    const Json* total = metadata->find("total_size");
    if (total != nullptr && total->is_integer()) {
      if (total->kind() == Json::Kind::unsigned_integer || total->as_int() >= 0)
        index.total_size = total->as_uint();
    }
  }
  return index;
}

std::string shard_index_text(const ShardIndex& index) {
  Json metadata = Json::object(), map = Json::object(), json = Json::object();
  metadata["total_size"] = index.total_size.value_or(0);
  for (const auto& [tensor, shard] : index.weight_map) map.members().emplace_back(tensor, Json(shard));
  json["metadata"] = std::move(metadata);
  json["weight_map"] = std::move(map);
  return json.dump(2) + "\n";
}

}  // namespace pare
