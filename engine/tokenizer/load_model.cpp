#include <fmt/core.h>

#include <algorithm>

#include "engine/core/text.h"
#include "engine/tokenizer/load.h"
#include "engine/tokenizer/load_merges.h"
#include "engine/tokenizer/model_bpe.h"
#include "engine/tokenizer/model_unigram.h"
#include "engine/tokenizer/model_word_level.h"
#include "engine/tokenizer/model_wordpiece.h"

namespace pare {
namespace {

Error absent_unknown(const Fields& model, std::string_view key, std::string got) {
  return model.malformed("TK15", key, "unknown token is not in the vocabulary", std::move(got));
}

size_t count_added_tokens(const Fields& root) {
  const Json* added = root.find("added_tokens");
  return added != nullptr && added->is_array() ? added->size() : 0;
}

// The id of `token`, also when it is only an added token.
std::optional<int32_t> find_token(const Fields& root, const Vocabulary& vocabulary, std::string_view token) {
  if (const auto id = vocabulary.find(token)) return id;
  const Json* added = root.find("added_tokens");
  if (added == nullptr || !added->is_array()) return std::nullopt;
  for (const Json& entry : added->items()) {
    const Json* content = entry.find("content");
    const Json* id = entry.find("id");
    if (content != nullptr && content->is_string() && content->as_string() == token && id != nullptr &&
        id->kind() == Json::Kind::integer && id->as_int() >= 0 && id->as_int() <= INT32_MAX) {
      return static_cast<int32_t>(id->as_int());
    }
  }
  return std::nullopt;
}

// With byte fallback, the byte tokens are all there or none is, and nothing looks like one without being one
// (TK14).
Status check_byte_tokens(const Fields& model, const Vocabulary& vocabulary) {
  const std::vector<int32_t> ids = byte_token_ids(vocabulary);
  const auto present = std::count_if(ids.begin(), ids.end(), [](int32_t id) { return id >= 0; });
  if (present > 0 && present < 256) {
    const auto missing = std::find(ids.begin(), ids.end(), -1) - ids.begin();
    return model.malformed("TK14", "vocab",
                           fmt::format("byte map incomplete: token \"<0x{:02X}>\" missing", missing),
                           fmt::format("{} of 256", present));
  }
  for (int32_t id = 0; id < static_cast<int32_t>(vocabulary.id_bound()); ++id) {
    const std::string_view token = vocabulary.text(id);
    if (token.size() < 4 || token.size() > 8 || !token.starts_with("<0x") || !token.ends_with('>')) continue;
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) {
      return model.malformed("TK14", "vocab", "token looks like a byte but is none", quote(token));
    }
  }
  return {};
}

Result<LoadedModel> load_bpe(const Fields& root, const Fields& model, bool raw_bytes) {
  PARE_TRY(Vocabulary vocabulary, load_vocabulary(model, count_added_tokens(root), nullptr));
  BpeOptions options;
  PARE_TRY(options.continuing_prefix, model.text("continuing_subword_prefix", ""));
  PARE_TRY(options.end_suffix, model.text("end_of_word_suffix", ""));
  PARE_TRY(options.fuse_unknown, model.boolean("fuse_unk", false));
  PARE_TRY(options.byte_fallback, model.boolean("byte_fallback", false));
  PARE_TRY(options.ignore_merges, model.boolean("ignore_merges", false));
  PARE_TRY(const std::string unknown, model.text("unk_token", ""));
  if (const Json* dropout = model.find("dropout");
      dropout != nullptr && (!dropout->is_number() || dropout->as_double() != 0.0)) {
    return Error{.exit = Exit::unsupported,
                 .rule = "TK12",
                 .path = model.path(),
                 .where = model.at("dropout"),
                 .what = "random merges are not supported"};
  }
  if (!unknown.empty()) {
    options.unknown = find_token(root, vocabulary, unknown);
    if (!options.unknown) return absent_unknown(model, "unk_token", quote(unknown));
  }
  if (options.byte_fallback) PARE_CHECK(check_byte_tokens(model, vocabulary));
  // With prefix, suffix or fallback, symbols are more than bytes.
  options.raw_bytes =
      raw_bytes && options.continuing_prefix.empty() && options.end_suffix.empty() && !options.byte_fallback;
  PARE_TRY(LoadedMerges merges, load_merges(model, vocabulary, options.continuing_prefix));
  LoadedModel loaded;
  loaded.options = fmt::format("BPE unk={} prefix={} suffix={} fuse={} fallback={} ignore={}",
                               options.unknown.value_or(-1), options.continuing_prefix, options.end_suffix,
                               options.fuse_unknown, options.byte_fallback, options.ignore_merges);
  loaded.merges = std::move(merges.pairs);
  loaded.model =
      std::make_unique<BpeModel>(std::move(vocabulary), std::move(merges.ranks), std::move(options));
  return loaded;
}

Result<LoadedModel> load_unigram(const Fields& root, const Fields& model) {
  std::vector<double> scores;
  PARE_TRY(Vocabulary vocabulary, load_vocabulary(model, count_added_tokens(root), &scores));
  PARE_TRY(const bool byte_fallback, model.boolean("byte_fallback", false));
  const Json* unknown = model.find("unk_id");
  if (unknown == nullptr) return model.malformed("TK15", "unk_id", "absent");
  if (!unknown->is_integer() || (unknown->kind() == Json::Kind::integer && unknown->as_int() < 0) ||
      unknown->as_uint() >= scores.size()) {
    Error error = model.malformed("TK15", "unk_id", "unk_id out of range",
                                  unknown->is_integer() ? unknown->dump() : unknown->kind_name());
    error.limit = std::to_string(scores.size());
    return error;
  }
  if (byte_fallback) PARE_CHECK(check_byte_tokens(model, vocabulary));
  LoadedModel loaded;
  loaded.options = fmt::format("Unigram unk={} fallback={} scores=", unknown->as_uint(), byte_fallback);
  for (double score : scores) loaded.options += format_double(score) + ",";
  loaded.model = std::make_unique<UnigramModel>(std::move(vocabulary), std::move(scores),
                                                static_cast<int32_t>(unknown->as_uint()), byte_fallback);
  return loaded;
}

Result<LoadedModel> load_word_model(const Fields& root, const Fields& model, bool pieces) {
  PARE_TRY(Vocabulary vocabulary, load_vocabulary(model, count_added_tokens(root), nullptr));
  PARE_TRY(const std::string unknown, model.text("unk_token", pieces ? "[UNK]" : "<unk>"));
  const auto unknown_id = find_token(root, vocabulary, unknown);
  if (!unknown_id) return absent_unknown(model, "unk_token", quote(unknown));
  LoadedModel loaded;
  if (!pieces) {
    loaded.options = fmt::format("WordLevel unk={}", *unknown_id);
    loaded.model = std::make_unique<WordLevelModel>(std::move(vocabulary), *unknown_id);
    return loaded;
  }
  PARE_TRY(const std::string prefix, model.text("continuing_subword_prefix", "##"));
  PARE_TRY(const uint64_t most, model.count("max_input_chars_per_word", 100));
  loaded.options = fmt::format("WordPiece unk={} prefix={} most={}", *unknown_id, prefix, most);
  loaded.model = std::make_unique<WordPieceModel>(std::move(vocabulary), *unknown_id, prefix,
                                                  static_cast<int64_t>(std::min<uint64_t>(most, INT64_MAX)));
  return loaded;
}

}  // namespace

Result<std::string> model_type(const Fields& root) {
  PARE_TRY(const Json* json, root.object("model"));
  const Fields model(*json, root.path(), "model");
  if (json->find("type") != nullptr) return model.text("type");
  if (model.has("merges")) return std::string("BPE");
  if (const Json* vocabulary = model.find("vocab"); vocabulary != nullptr && vocabulary->is_array()) {
    return std::string("Unigram");
  }
  return std::string(model.has("max_input_chars_per_word") ? "WordPiece" : "WordLevel");
}

Result<LoadedModel> load_model(const Fields& root, bool raw_bytes) {
  PARE_TRY(const std::string type, model_type(root));
  const Fields model(*root.find("model"), root.path(), "model");
  if (type == "BPE") return load_bpe(root, model, raw_bytes);
  if (type == "Unigram") return load_unigram(root, model);
  if (type == "WordPiece") return load_word_model(root, model, /*pieces=*/true);
  if (type == "WordLevel") return load_word_model(root, model, /*pieces=*/false);
  return model.unknown_type("model", type);
}

}  // namespace pare
