#include "prune/structured/vocabulary_files.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "engine/core/limits.h"
#include "engine/core/log.h"
#include "engine/core/text.h"
#include "prune/structured/config_text.h"

namespace pare {
namespace {

Error tokenizer_error(const WeightSource& source, Exit exit, std::string where, std::string what) {
  return Error{.exit = exit,
               .rule = "TK12",
               .path = source.path(),
               .where = std::move(where),
               .what = std::move(what),
               .got = {},
               .limit = {}};
}

Result<Json> parse_asset(const WeightSource& source, const Asset& asset) {
  return parse_json(asset.bytes, source.path() + "/" + asset.name,
                    {.max_bytes = limits::kTokenizerBytes, .want_object = true}, "TK01");
}

// One id of a file; nothing when it is gone. Ids beyond the table have no row: they stay what they are
// nowhere.
std::optional<int64_t> renumbered(const Json& id, const std::vector<int32_t>& ids) {
  if (!id.is_integer() || id.kind() == Json::Kind::unsigned_integer) return std::nullopt;
  const int64_t value = id.as_int();
  if (value < 0 || value >= int64_t(ids.size()) || ids[size_t(value)] < 0) return std::nullopt;
  return int64_t(ids[size_t(value)]);
}

// {token: id} with the kept tokens in their order.
Json cut_table(const Json& table, const std::vector<int32_t>& ids) {
  Json left = Json::object();
  for (const auto& [token, id] : table.members())
    if (const auto now = renumbered(id, ids)) left.members().emplace_back(token, Json(*now));
  return left;
}

using TokenIds = std::unordered_map<std::string_view, int64_t>;

TokenIds ids_of(const Json& table) {
  TokenIds ids;
  if (!table.is_object()) return ids;
  for (const auto& [token, id] : table.members())
    if (id.is_integer()) ids.emplace(token, id.as_int());
  return ids;
}

// The two parts of a merge rule, written as "a b" or ["a", "b"].
std::optional<std::pair<std::string_view, std::string_view>> parts_of(const Json& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return std::pair<std::string_view, std::string_view>(merge[0].as_string(), merge[1].as_string());
  if (!merge.is_string()) return std::nullopt;
  const std::string_view text = merge.as_string();
  const size_t space = text.find(' ');
  if (space == std::string_view::npos) return std::nullopt;
  return std::pair(text.substr(0, space), text.substr(space + 1));
}

Json cut_merges(const Json& merges, const TokenIds& vocabulary, const std::vector<int32_t>& ids) {
  const auto stays = [&](std::string_view token) {
    const auto found = vocabulary.find(token);
    return found != vocabulary.end() && found->second >= 0 && found->second < int64_t(ids.size()) &&
           ids[size_t(found->second)] >= 0;
  };
  Json left = Json::array();
  for (const Json& merge : merges.items()) {
    const auto parts = parts_of(merge);
    if (!parts) continue;
    std::string whole(parts->first);
    whole += parts->second;
    if (stays(parts->first) && stays(parts->second) && stays(whole)) left.push_back(merge);
  }
  return left;
}

// Ids in post-processors: TemplateProcessing lists them, Bert and Roberta have [token, id] pairs.
void renumber_processor(Json& processor, const std::vector<int32_t>& ids) {
  if (!processor.is_object()) return;
  for (auto& [key, value] : processor.members()) {
    if (key == "processors" && value.is_array()) {
      for (Json& item : value.items()) renumber_processor(item, ids);
    } else if ((key == "sep" || key == "cls") && value.is_array() && value.size() == 2) {
      if (const auto now = renumbered(value[1], ids)) value.items()[1] = Json(*now);
    } else if (key == "special_tokens" && value.is_object()) {
      for (auto& token : value.members()) {
        Json left = Json::array();
        const Json* list = token.second.find("ids");
        if (list == nullptr || !list->is_array()) continue;
        for (const Json& id : list->items())
          if (const auto now = renumbered(id, ids)) left.push_back(Json(*now));
        token.second["ids"] = std::move(left);
      }
    }
  }
}

Result<Json*> model_of(const WeightSource& source, Json& tokenizer) {
  Json& model = tokenizer["model"];
  const Json* table = model.find("vocab");
  if (table == nullptr || (!table->is_object() && !table->is_array()))
    return tokenizer_error(source, Exit::unsupported, "tokenizer.json: model.vocab",
                           "a tokenizer without a plain vocabulary cannot be cut");
  return &model;
}

Status cut_tokenizer(const WeightSource& source, Json& tokenizer, const std::vector<int32_t>& ids) {
  PARE_TRY(Json * model, model_of(source, tokenizer));
  Json& table = (*model)["vocab"];
  if (table.is_object()) {
    const Json* merges = model->find("merges");
    if (merges != nullptr && merges->is_array()) {
      Json left = cut_merges(*merges, ids_of(table), ids);
      (*model)["merges"] = std::move(left);
    }
    Json left = cut_table(table, ids);
    (*model)["vocab"] = std::move(left);
  } else {
    Json left = Json::array();
    for (size_t i = 0; i < table.size(); ++i)
      if (i < ids.size() && ids[i] >= 0) left.push_back(table[i]);
    table = std::move(left);
    const Json* unknown = model->find("unk_id");
    if (unknown != nullptr && unknown->is_integer()) {
      const auto now = renumbered(*unknown, ids);
      (*model)["unk_id"] = now ? Json(*now) : Json();
    }
  }
  const Json* added = tokenizer.find("added_tokens");
  if (added != nullptr && added->is_array()) {
    Json left = Json::array();
    for (Json token : added->items()) {
      const Json* id = token.find("id");
      const auto now = id == nullptr ? std::nullopt : renumbered(*id, ids);
      if (!now) continue;
      token["id"] = Json(*now);
      left.push_back(std::move(token));
    }
    tokenizer["added_tokens"] = std::move(left);
  }
  if (tokenizer.find("post_processor") != nullptr) renumber_processor(tokenizer["post_processor"], ids);
  return {};
}

// tokenizer_config.json keeps added tokens under their ids.
void cut_tokenizer_config(Json& config, const std::vector<int32_t>& ids) {
  const Json* tokens = config.find("added_tokens_decoder");
  if (tokens != nullptr && tokens->is_object()) {
    Json left = Json::object();
    for (const auto& [text, token] : tokens->members()) {
      const auto id = parse_int(text);
      const auto now = id ? renumbered(Json(*id), ids) : std::nullopt;
      if (now) left.members().emplace_back(std::to_string(*now), token);
    }
    config["added_tokens_decoder"] = std::move(left);
  }
  renumber_token_ids(config, ids);
}

// "#version" line first, then one rule a line.
std::string cut_merge_lines(const std::string& text, const TokenIds& vocabulary,
                            const std::vector<int32_t>& ids) {
  std::string left;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    const bool is_comment = line.starts_with("#version");
    Json one = Json::array();
    one.push_back(Json(line));
    if (is_comment || line.empty() || cut_merges(one, vocabulary, ids).size() == 1)
      left.append(line).append("\n");
  }
  return left;
}

const Asset* tokenizer_asset(const WeightSource& source) {
  return source.asset("tokenizer.json");
}

Error no_tokenizer(const WeightSource& source) {
  return tokenizer_error(source, Exit::unsupported, "tokenizer.json",
                         "the vocabulary is cut together with this file, and the model has none");
}

}  // namespace

Result<std::vector<Asset>> cut_vocabulary_files(const WeightSource& source, const std::vector<int32_t>& ids) {
  if (tokenizer_asset(source) == nullptr) return no_tokenizer(source);
  PARE_TRY(Json tokenizer, parse_asset(source, *tokenizer_asset(source)));
  PARE_TRY(const Json* model, model_of(source, tokenizer));
  const Json whole_table = *model->find("vocab");
  const TokenIds vocabulary = ids_of(whole_table);
  std::vector<Asset> assets;
  for (const Asset& asset : source.assets()) {
    if (asset.name == "tokenizer.model") {
      log_warning(source.path() +
                  ": tokenizer.model: left out, since its pieces cannot be cut; tokenizer.json has them");
      continue;
    }
    if (asset.name == "merges.txt") {
      assets.push_back({asset.name, cut_merge_lines(asset.bytes, vocabulary, ids)});
      continue;
    }
    const bool is_table = asset.name == "vocab.json" || asset.name == "added_tokens.json";
    const bool is_config = asset.name == "tokenizer_config.json" || asset.name == "generation_config.json";
    if (!is_table && !is_config && asset.name != "tokenizer.json") {
      assets.push_back(asset);
      continue;
    }
    PARE_TRY(Json json, parse_asset(source, asset));
    if (is_table) {
      json = cut_table(json, ids);
    } else if (asset.name == "tokenizer_config.json") {
      cut_tokenizer_config(json, ids);
    } else if (asset.name == "generation_config.json") {
      renumber_token_ids(json, ids);
    } else {
      PARE_CHECK(cut_tokenizer(source, json, ids));
    }
    assets.push_back({asset.name, json.dump(2) + "\n"});
  }
  return assets;
}

namespace {

// What a tokenizer file says about tokens that must stay.
class Keeper {
 public:
  Keeper(int64_t size) : kept_(static_cast<size_t>(size), false) {}
  void keep(int64_t id) {
    if (id >= 0 && id < int64_t(kept_.size())) kept_[size_t(id)] = true;
  }
  void keep(const Json* id) {
    if (id != nullptr && id->kind() == Json::Kind::integer) keep(id->as_int());
  }
  bool has(int64_t id) const { return id >= 0 && id < int64_t(kept_.size()) && kept_[size_t(id)]; }
  std::vector<bool>& flags() { return kept_; }

 private:
  std::vector<bool> kept_;
};

bool is_byte_token(std::string_view token) {  // "<0x0A>"
  return token.size() == 6 && token.starts_with("<0x") && token.back() == '>';
}

bool is_one_character(std::string_view token) {
  if (token.starts_with("##")) token.remove_prefix(2);
  int64_t count = 0;
  for (const char c : token) count += (uint8_t(c) & 0xC0) != 0x80 ? 1 : 0;
  return count == 1;
}

void keep_named_ids(const Json& json, Keeper& keeper) {
  for (const auto& [key, value] : json.members()) {
    if (!key.ends_with("_token_id") && !key.ends_with("_token_ids")) continue;
    if (value.is_array()) {
      for (const Json& item : value.items()) keeper.keep(&item);
    } else {
      keeper.keep(&value);
    }
  }
}

// A token that stays needs both parts of every rule that makes it; parts have parts.
void close_over_merges(const Json& merges, const TokenIds& vocabulary, Keeper& keeper) {
  std::unordered_multimap<int64_t, std::pair<int64_t, int64_t>> rules;
  std::string whole;
  for (const Json& merge : merges.items()) {
    const auto parts = parts_of(merge);
    if (!parts) continue;
    whole.assign(parts->first).append(parts->second);
    const auto made = vocabulary.find(whole), left = vocabulary.find(parts->first),
               right = vocabulary.find(parts->second);
    if (made == vocabulary.end() || left == vocabulary.end() || right == vocabulary.end()) continue;
    rules.emplace(made->second, std::pair(left->second, right->second));
  }
  std::vector<int64_t> open;
  for (size_t id = 0; id < keeper.flags().size(); ++id)
    if (keeper.flags()[id]) open.push_back(int64_t(id));
  while (!open.empty()) {
    const auto [first, last] = rules.equal_range(open.back());
    open.pop_back();
    for (auto rule = first; rule != last; ++rule) {
      for (const int64_t part : {rule->second.first, rule->second.second}) {
        if (keeper.has(part)) continue;
        keeper.keep(part);
        open.push_back(part);
      }
    }
  }
}

}  // namespace

Result<std::vector<int64_t>> choose_vocabulary(const WeightSource& source, int64_t vocabulary_size,
                                               const std::vector<uint64_t>& counts, uint64_t min_count,
                                               int64_t multiple) {
  if (tokenizer_asset(source) == nullptr) return no_tokenizer(source);
  PARE_TRY(Json tokenizer, parse_asset(source, *tokenizer_asset(source)));
  PARE_TRY(Json * model, model_of(source, tokenizer));
  Keeper keeper(vocabulary_size);
  for (size_t id = 0; id < counts.size(); ++id)
    if (counts[id] >= min_count && counts[id] > 0) keeper.keep(int64_t(id));
  keep_named_ids(source.config(), keeper);
  for (const char* name : {"generation_config.json", "tokenizer_config.json"}) {
    if (source.asset(name) == nullptr) continue;
    PARE_TRY(const Json json, parse_asset(source, *source.asset(name)));
    keep_named_ids(json, keeper);
  }
  if (const Json* added = tokenizer.find("added_tokens"); added != nullptr && added->is_array())
    for (const Json& token : added->items()) keeper.keep(token.find("id"));
  const Json& table = *model->find("vocab");
  const Json* fallback = model->find("byte_fallback");
  const bool falls_back = fallback != nullptr && fallback->is_bool() && fallback->as_bool();
  const auto keep_small = [&](const std::string& token, int64_t id) {
    if (is_byte_token(token) || (!falls_back && is_one_character(token))) keeper.keep(id);
  };
  const Json* unknown = model->find("unk_token");
  if (table.is_object()) {
    const TokenIds vocabulary = ids_of(table);
    for (const auto& [token, id] : table.members())
      if (id.is_integer()) keep_small(token, id.as_int());
    if (unknown != nullptr && unknown->is_string()) {
      const auto found = vocabulary.find(unknown->as_string());
      if (found != vocabulary.end()) keeper.keep(found->second);
    }
    if (const Json* merges = model->find("merges"); merges != nullptr && merges->is_array())
      close_over_merges(*merges, vocabulary, keeper);
  } else {
    keeper.keep(model->find("unk_id"));
    for (size_t id = 0; id < table.size(); ++id) {
      const Json& piece = table[id];
      if (piece.is_array() && piece.size() > 0 && piece[0].is_string())
        keep_small(piece[0].as_string(), int64_t(id));
    }
  }
  int64_t count = std::count(keeper.flags().begin(), keeper.flags().end(), true);
  for (int64_t id = 0; id < vocabulary_size && multiple > 1 && count % multiple != 0; ++id) {
    if (keeper.has(id)) continue;
    keeper.keep(id);
    ++count;
  }
  // An id that fills up brings no merge rule of its own: its parts may be gone.
  std::vector<int64_t> kept;
  for (int64_t id = 0; id < vocabulary_size; ++id)
    if (keeper.has(id)) kept.push_back(id);
  return kept;
}

}  // namespace pare
