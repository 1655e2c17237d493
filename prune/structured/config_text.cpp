#include "prune/structured/config_text.h"

#include <algorithm>
#include <array>

namespace pare {
namespace {

// How a family names its sizes; an empty name: the config has no such key.
struct SizeKeys {
  std::string_view hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary, experts;
};
constexpr SizeKeys kLlamaKeys{"hidden_size",         "intermediate_size",   "num_hidden_layers",
                              "num_attention_heads", "num_key_value_heads", "head_dim",
                              "vocab_size",          "num_local_experts"};
constexpr SizeKeys kGpt2Keys{"n_embd", "n_inner", "n_layer", "n_head", "", "", "vocab_size", ""};

void set_size(Json& config, std::string_view key, int64_t before, int64_t after) {
  if (before != after) config[key] = Json(after);
}

// Which blocks slide is said by number in some configs: the numbers change when layers go.
void cut_layer_lists(Json& config, const ModelConfig& before, const KeptUnits& kept) {
  const auto cut = [&](const Json& list) {
    Json left = Json::array();
    for (const int64_t layer : kept.layers) left.push_back(list[size_t(layer)]);
    return left;
  };
  const Json* limit = config.find("max_window_layers");
  if (limit != nullptr && limit->is_integer()) {
    const int64_t first_sliding = limit->as_int();
    config["max_window_layers"] = Json(int64_t(
        std::count_if(kept.layers.begin(), kept.layers.end(), [&](int64_t l) { return l < first_sliding; })));
  }
  const Json* types = config.find("layer_types");
  if (types != nullptr && types->is_array() && int64_t(types->size()) == before.block_count()) {
    Json left = cut(*types);
    config["layer_types"] = std::move(left);
    return;
  }
  bool some = false, all = true;
  for (const BlockConfig& block : before.blocks) {
    some = some || block.sliding_window > 0;
    all = all && block.sliding_window > 0;
  }
  if (!some || all) return;
  Json left = Json::array();
  for (const int64_t layer : kept.layers)
    left.push_back(before.blocks[size_t(layer)].sliding_window > 0 ? "sliding_attention" : "full_attention");
  config["layer_types"] = std::move(left);
}

}  // namespace

std::vector<int32_t> new_ids(const std::vector<int64_t>& kept, int64_t count) {
  std::vector<int32_t> ids(size_t(count), -1);
  for (size_t i = 0; i < kept.size(); ++i) ids[size_t(kept[i])] = int32_t(i);
  return ids;
}

void renumber_token_ids(Json& json, const std::vector<int32_t>& ids) {
  const auto renumbered = [&](const Json& value) -> Json {
    if (!value.is_integer()) return value;
    const bool is_id =
        value.kind() == Json::Kind::integer && value.as_int() >= 0 && value.as_int() < int64_t(ids.size());
    if (!is_id || ids[size_t(value.as_int())] < 0) return Json();
    return Json(int64_t(ids[size_t(value.as_int())]));
  };
  for (auto& [key, value] : json.members()) {
    if (!key.ends_with("_token_id") && !key.ends_with("_token_ids") && !key.ends_with("suppress_tokens"))
      continue;
    if (!value.is_array()) {
      value = renumbered(value);
      continue;
    }
    Json left = Json::array();
    for (const Json& item : value.items()) {
      Json id = renumbered(item);
      if (!id.is_null()) left.push_back(std::move(id));
    }
    value = std::move(left);
  }
}

std::string cut_config_text(const WeightSource& source, const ModelDescription& model,
                            const KeptUnits& kept) {
  const ModelConfig& before = model.config;
  const ModelConfig after = cut_config(before, kept);
  if (kept == all_units(before)) return source.config_text();
  const SizeKeys& keys = model.architecture->model_type == "gpt2" ? kGpt2Keys : kLlamaKeys;
  Json config = source.config();
  const BlockConfig& old_block = before.blocks.front();
  const BlockConfig& new_block = after.blocks.front();
  set_size(config, keys.hidden, before.hidden_size, after.hidden_size);
  set_size(config, keys.intermediate, old_block.intermediate_size, new_block.intermediate_size);
  set_size(config, keys.layers, before.block_count(), after.block_count());
  set_size(config, keys.heads, old_block.heads, new_block.heads);
  set_size(config, keys.experts, old_block.experts, new_block.experts);
  set_size(config, keys.vocabulary, before.vocabulary_size, after.vocabulary_size);
  const bool head_size_open = before.hidden_size != after.hidden_size || old_block.heads != new_block.heads ||
                              old_block.kv_heads != new_block.kv_heads;
  if (head_size_open && !keys.head_dim.empty()) {
    config[keys.head_dim] = Json(new_block.head_dim);
    config[keys.kv_heads] = Json(new_block.kv_heads);
  }
  if (before.block_count() != after.block_count()) cut_layer_lists(config, before, kept);
  if (before.vocabulary_size != after.vocabulary_size)
    renumber_token_ids(config, new_ids(kept.vocabulary, before.vocabulary_size));
  return config.dump(2) + "\n";
}

}  // namespace pare
