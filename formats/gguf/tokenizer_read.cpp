#include "formats/gguf/tokenizer_read.h"

#include <fmt/core.h>

#include <algorithm>
#include <unordered_set>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "formats/fault.h"
#include "formats/gguf/piece_merges.h"
#include "formats/gguf/pre_tokenizer.h"
#include "formats/gguf/token_kind.h"

namespace pare {
namespace {

constexpr const char* kSpace = "\xe2\x96\x81";  // U+2581 stands for a space

std::string key(std::string_view name) {
  return "tokenizer.ggml." + std::string(name);
}

Json object(std::initializer_list<std::pair<const char*, Json>> members) {
  Json json = Json::object();
  for (const auto& [name, value] : members) json[name] = value;
  return json;
}

class TokenizerReader {
 public:
  explicit TokenizerReader(const GgufMetadata& metadata) : metadata_(metadata) {}

  Result<std::vector<Asset>> read() {
    PARE_TRY(const auto model, metadata_.text(key("model")));
    if (!model || *model == "none" || *model == "no_vocab") return std::vector<Asset>();
    if (*model != "gpt2" && *model != "llama")
      return unsupported("GG37", metadata_.path(), key("model"), "kind of tokenizer is not supported",
                         quote(*model), "gpt2, llama");
    PARE_CHECK(read_tokens());
    PARE_CHECK(check_charsmap());
    Json root = object({{"version", "1.0"}, {"truncation", Json()}, {"padding", Json()}});
    root["added_tokens"] = added_tokens();
    PARE_CHECK(*model == "gpt2" ? read_byte_level(root) : read_pieces(root));
    PARE_CHECK(read_special_ids());
    std::vector<Asset> assets;
    if (const auto generation = generation_config(); !generation.empty())
      assets.push_back({"generation_config.json", generation});
    PARE_TRY(std::string config, tokenizer_config());
    assets.push_back({"tokenizer.json", finish(root).dump(1)});
    assets.push_back({"tokenizer_config.json", std::move(config)});
    return assets;
  }

 private:
  Status read_tokens() {
    PARE_TRY(tokens_, metadata_.strings(key("tokens")));
    if (tokens_.size() > limits::kVocabulary)
      return over_cap("GG33", metadata_.path(), key("tokens"), "vocabulary is over the limit", tokens_.size(),
                      limits::kVocabulary);
    if (metadata_.has(key("token_type"))) {
      PARE_TRY(kinds_, metadata_.integers(key("token_type")));
      PARE_CHECK(check_length("token_type", kinds_.size()));
    } else {
      kinds_.assign(tokens_.size(), int64_t{GgufTokenKind::normal});
    }
    for (size_t i = 0; i < kinds_.size(); ++i) {
      if (kinds_[i] < 0 || kinds_[i] > GgufTokenKind::byte)
        return metadata_.bad(fmt::format("{}[{}]", key("token_type"), i), "unknown kind of token",
                             std::to_string(kinds_[i]), "0 to 6");
    }
    if (metadata_.has(key("scores"))) {
      PARE_TRY(scores_, metadata_.floats(key("scores")));
      PARE_CHECK(check_length("scores", scores_.size()));
    }
    std::unordered_set<std::string_view> seen;
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (!is_padding(i) && !seen.insert(tokens_[i]).second)
        return metadata_.bad(fmt::format("{}[{}]", key("tokens"), i), "token stands twice",
                             quote(tokens_[i]));
    }
    return {};
  }

  Status check_length(std::string_view name, size_t found) const {
    if (found == tokens_.size()) return {};
    return metadata_.bad(key(name), "needs one value per token", std::to_string(found),
                         std::to_string(tokens_.size()));
  }

  // Only Unigram tokenizers have one, and those are not read; but what is there must be one.
  Status check_charsmap() const {
    const auto size = metadata_.count(key("precompiled_charsmap"));
    if (!size || *size == 0) return {};
    if (*size < 4)
      return metadata_.bad(key("precompiled_charsmap"), "too short", std::to_string(*size),
                           "at least 4 bytes");
    return unsupported("GG37", metadata_.path(), key("precompiled_charsmap"),
                       "normalisation by a table is not supported here");
  }

  // A row of the embedding without a token.
  bool is_padding(size_t id) const {
    return (kinds_[id] == GgufTokenKind::unknown || kinds_[id] == GgufTokenKind::unused) &&
           tokens_[id] == fmt::format("[PAD{}]", id);
  }

  Json added_tokens() const {
    Json list = Json::array();
    for (size_t i = 0; i < tokens_.size(); ++i) {
      const int64_t kind = kinds_[i];
      const bool is_added = kind == GgufTokenKind::control || kind == GgufTokenKind::user_defined ||
                            kind == GgufTokenKind::unknown;
      if (!is_added || is_padding(i) || tokens_[i].empty()) continue;
      list.push_back(object({{"id", Json(uint64_t{i})},
                             {"content", Json(tokens_[i])},
                             {"single_word", false},
                             {"lstrip", false},
                             {"rstrip", false},
                             {"normalized", false},
                             {"special", kind != GgufTokenKind::user_defined}}));
    }
    return list;
  }

  Json vocabulary() const {
    Json json = Json::object();
    json.members().reserve(tokens_.size());
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (!is_padding(i)) json.members().emplace_back(std::string(tokens_[i]), Json(uint64_t{i}));
    }
    return json;
  }

  Json bpe_model(bool byte_fallback, bool ignore_merges, Json merges) const {
    return object({{"type", "BPE"},
                   {"dropout", Json()},
                   {"unk_token", unknown_ ? Json(tokens_[*unknown_]) : Json()},
                   {"continuing_subword_prefix", Json()},
                   {"end_of_word_suffix", Json()},
                   {"fuse_unk", byte_fallback},
                   {"byte_fallback", byte_fallback},
                   {"ignore_merges", ignore_merges},
                   {"vocab", vocabulary()},
                   {"merges", std::move(merges)}});
  }

  Status read_byte_level(Json& root) {
    PARE_TRY(const auto pre, metadata_.text(key("pre")));
    const PreTokenizerRow* row = pre ? find_pre_tokenizer(*pre) : nullptr;
    if (row == nullptr) {
      return unsupported(
          "GG37", metadata_.path(), key("pre"),
          pre ? "unknown pre-tokenizer" : "key is missing, and a guess would change the tokens",
          pre ? quote(*pre) : std::string(), known_pre_tokenizers());
    }
    PARE_TRY(const auto pairs, metadata_.strings(key("merges")));
    Json merges = Json::array();
    for (size_t i = 0; i < pairs.size(); ++i) {
      // The space between may follow a token that begins with one in other alphabets; here spaces are mapped.
      const size_t space = pairs[i].find(' ', 1);
      if (space == std::string_view::npos || space + 1 >= pairs[i].size())
        return metadata_.bad(fmt::format("{}[{}]", key("merges"), i), "not two tokens with a space between",
                             quote(pairs[i]));
      merges.push_back(Json(Json::Array{Json(pairs[i].substr(0, space)), Json(pairs[i].substr(space + 1))}));
    }
    default_bos_ = row->adds_bos;
    root["normalizer"] = row->is_nfc ? object({{"type", "NFC"}}) : Json();
    root["pre_tokenizer"] = pre_tokenizer_json(*row);
    root["post_processor"] = Json();
    root["decoder"] = object(
        {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}});
    root["model"] = bpe_model(false, row->ignore_merges, std::move(merges));
    return {};
  }

  Status read_pieces(Json& root) {
    if (scores_.empty() && !tokens_.empty()) return metadata_.missing(key("scores"));
    PARE_TRY(const auto prefix, metadata_.flag(key("add_space_prefix")));
    PARE_TRY(const auto unknown, special_id("unknown_token_id"));
    unknown_ = unknown;
    if (!unknown_) {
      for (size_t i = 0; i < kinds_.size() && !unknown_; ++i) {
        if (kinds_[i] == GgufTokenKind::unknown && !is_padding(i)) unknown_ = i;
      }
    }
    default_bos_ = true;
    std::vector<ScoredPiece> pieces;
    bool has_bytes = false;
    for (size_t i = 0; i < tokens_.size(); ++i) {
      pieces.push_back({tokens_[i], scores_[i], kinds_[i] == GgufTokenKind::normal});
      has_bytes = has_bytes || kinds_[i] == GgufTokenKind::byte;
    }
    Json merges = Json::array();
    for (const auto& [left, right] : merges_of_scores(pieces))
      merges.push_back(Json(Json::Array{Json(left), Json(right)}));
    const bool adds_space = prefix.value_or(true);
    const Json replace =
        object({{"type", "Replace"}, {"pattern", object({{"String", " "}})}, {"content", kSpace}});
    root["normalizer"] =
        adds_space
            ? object({{"type", "Sequence"},
                      {"normalizers",
                       Json(Json::Array{object({{"type", "Prepend"}, {"prepend", kSpace}}), replace})}})
            : replace;
    root["pre_tokenizer"] = Json();
    root["post_processor"] = Json();
    Json::Array decoders{
        object({{"type", "Replace"}, {"pattern", object({{"String", kSpace}})}, {"content", " "}}),
        object({{"type", "ByteFallback"}}), object({{"type", "Fuse"}})};
    if (adds_space)
      decoders.push_back(object({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}));
    root["decoder"] = object({{"type", "Sequence"}, {"decoders", Json(std::move(decoders))}});
    root["model"] = bpe_model(has_bytes, false, std::move(merges));
    return {};
  }

  Result<std::optional<size_t>> special_id(std::string_view name) const {
    PARE_TRY(const auto id, metadata_.integer(key(name), 0, static_cast<int64_t>(tokens_.size()) - 1));
    if (!id) return std::optional<size_t>();
    return std::optional<size_t>(static_cast<size_t>(*id));
  }

  Status read_special_ids() {
    PARE_TRY(bos_, special_id("bos_token_id"));
    PARE_TRY(eos_, special_id("eos_token_id"));
    PARE_TRY(end_of_turn_, special_id("eot_token_id"));
    PARE_TRY(padding_, special_id("padding_token_id"));
    for (const char* other : {"unknown_token_id", "seperator_token_id", "cls_token_id", "mask_token_id"}) {
      PARE_TRY(const auto id, special_id(other));
      static_cast<void>(id);
    }
    PARE_TRY(const auto add_bos, metadata_.flag(key("add_bos_token")));
    PARE_TRY(const auto add_eos, metadata_.flag(key("add_eos_token")));
    add_bos_ = add_bos.value_or(default_bos_) && bos_.has_value();
    add_eos_ = add_eos.value_or(false) && eos_.has_value();
    return {};
  }

  // The template that puts BOS and EOS around a text.
  Json finish(Json& root) const {
    if (!add_bos_ && !add_eos_) return std::move(root);
    Json single = Json::array(), specials = Json::object();
    const auto add = [&](size_t id) {
      const Json token(tokens_[id]);
      single.push_back(object({{"SpecialToken", object({{"id", token}, {"type_id", 0}})}}));
      specials[tokens_[id]] = object({{"id", token},
                                      {"ids", Json(Json::Array{Json(uint64_t{id})})},
                                      {"tokens", Json(Json::Array{token})}});
    };
    const auto sequence = [](const char* name, int type) {
      return object({{"Sequence", object({{"id", name}, {"type_id", type}})}});
    };
    if (add_bos_) add(*bos_);
    single.push_back(sequence("A", 0));
    if (add_eos_) add(*eos_);
    root["post_processor"] = object({{"type", "TemplateProcessing"},
                                     {"single", std::move(single)},
                                     {"pair", Json(Json::Array{sequence("A", 0), sequence("B", 1)})},
                                     {"special_tokens", std::move(specials)}});
    return std::move(root);
  }

  Result<std::string> tokenizer_config() const {
    Json json = object({{"add_bos_token", add_bos_}, {"add_eos_token", add_eos_}});
    const auto name = [&](const char* member, const std::optional<size_t>& id) {
      if (id) json[member] = tokens_[*id];
    };
    name("bos_token", bos_);
    name("eos_token", eos_);
    name("unk_token", unknown_);
    name("pad_token", padding_);
    json["tokenizer_class"] = "PreTrainedTokenizerFast";
    PARE_TRY(const auto text, metadata_.text("tokenizer.chat_template"));
    if (text) json["chat_template"] = *text;
    return json.dump(2) + "\n";
  }

  std::string generation_config() const {
    if (!eos_ && !end_of_turn_) return {};
    Json json = Json::object(), ends = Json::array();
    if (bos_) json["bos_token_id"] = Json(uint64_t{*bos_});
    if (eos_) ends.push_back(Json(uint64_t{*eos_}));
    if (end_of_turn_ && end_of_turn_ != eos_) ends.push_back(Json(uint64_t{*end_of_turn_}));
    json["eos_token_id"] = ends.size() == 1 ? ends.items().front() : ends;
    if (padding_) json["pad_token_id"] = Json(uint64_t{*padding_});
    return json.dump(2) + "\n";
  }

  const GgufMetadata& metadata_;
  std::vector<std::string_view> tokens_;
  std::vector<int64_t> kinds_;
  std::vector<float> scores_;
  std::optional<size_t> bos_, eos_, end_of_turn_, padding_, unknown_;
  bool default_bos_ = false, add_bos_ = false, add_eos_ = false;
};

}  // namespace

Result<std::vector<Asset>> gguf_tokenizer_assets(const GgufMetadata& metadata) {
  return TokenizerReader(metadata).read();
}

}  // namespace pare
