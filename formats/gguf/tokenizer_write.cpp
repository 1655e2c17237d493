// tokenizer.json and its neighbours as the tokenizer keys of GGUF.
#include <fmt/core.h>

#include <algorithm>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "engine/tokenizer/tokenizer.h"
#include "formats/fault.h"
#include "formats/gguf/export.h"
#include "formats/gguf/piece_merges.h"
#include "formats/gguf/pre_tokenizer.h"
#include "formats/gguf/token_kind.h"
#include "formats/tokenizer_files.h"

namespace pare {
namespace {

constexpr const char* kSpace = "\xe2\x96\x81";  // U+2581

std::string type_of(const Json* json) {
  const Json* type = json == nullptr ? nullptr : json->find("type");
  return type != nullptr && type->is_string() ? type->as_string() : std::string();
}

bool flag_of(const Json& json, std::string_view key) {
  const Json* found = json.find(key);
  return found != nullptr && found->is_bool() && found->as_bool();
}

bool text_is(const Json* json, std::string_view key, std::string_view wanted) {
  const Json* found = json == nullptr ? nullptr : json->find(key);
  return found != nullptr && found->is_string() && found->as_string() == wanted;
}

// The two normalizers of SentencePiece tokenizers: spaces become U+2581, with or without one in front.
std::optional<bool> adds_space_prefix(const Json* normalizer) {
  const auto replaces = [](const Json* step) {
    return type_of(step) == "Replace" && text_is(step, "content", kSpace) &&
           text_is(step->find("pattern"), "String", " ");
  };
  if (replaces(normalizer)) return false;
  const Json* steps = normalizer == nullptr ? nullptr : normalizer->find("normalizers");
  if (type_of(normalizer) != "Sequence" || steps == nullptr || !steps->is_array() || steps->size() != 2)
    return std::nullopt;
  const Json& first = steps->items()[0];
  if (type_of(&first) != "Prepend" || !text_is(&first, "prepend", kSpace) || !replaces(&steps->items()[1]))
    return std::nullopt;
  return true;
}

// The tokenizer has passed Tokenizer::load, so fields that it needs are there and of the right type.
class TokenizerWriter {
 public:
  TokenizerWriter(const Json& root, const Tokenizer& tokenizer, const ModelConfig& config,
                  std::string_view path, GgufPlan& plan)
      : root_(root), tokenizer_(tokenizer), config_(config), path_(path), plan_(plan) {}

  Status write() {
    const Json* model = root_.find("model");
    if (model == nullptr || type_of(model) != "BPE" || model->find("vocab") == nullptr)
      return refused("tokenizer.json: model.type", "only BPE tokenizers are written", quote(type_of(model)));
    PARE_CHECK(collect(*model));
    if (flag_of(*model, "byte_fallback")) {
      PARE_CHECK(write_pieces(*model));
    } else {
      const PreTokenizerRow* row = recognise_pre_tokenizer(root_);
      if (row == nullptr)
        return refused("tokenizer.json: pre_tokenizer", "no name of tokenizer.ggml.pre stands for it",
                       type_of(root_.find("pre_tokenizer")));
      plan_.pairs.add("tokenizer.ggml.model", "gpt2");
      plan_.pairs.add("tokenizer.ggml.pre", row->name);
      write_tokens();
      std::vector<std::string> merges;
      for (const auto& [left, right] : merges_) merges.push_back(left + " " + right);
      plan_.pairs.add("tokenizer.ggml.merges", merges);
    }
    write_ids();
    return {};
  }

 private:
  Error refused(const char* where, std::string what, std::string got = {}) const {
    return unsupported("GG37", path_, where, std::move(what), std::move(got));
  }

  // Texts and kinds by id, merges as pairs.
  Status collect(const Json& model) {
    const auto rows = static_cast<size_t>(config_.vocabulary_size);
    tokens_.resize(rows);
    kinds_.assign(rows, GgufTokenKind::unused);
    for (const auto& [text, id] : model.find("vocab")->members()) {
      if (id.as_uint() >= rows)
        return refused("tokenizer.json: model.vocab", "token without a row in the embedding", quote(text));
      tokens_[id.as_uint()] = text;
      kinds_[id.as_uint()] = GgufTokenKind::normal;
    }
    int64_t dropped = 0, stripping = 0;
    if (const Json* added = root_.find("added_tokens"); added != nullptr && added->is_array()) {
      for (const Json& token : added->items()) {
        const uint64_t id = token.find("id")->as_uint();
        if (id >= rows) {
          ++dropped;
          continue;
        }
        tokens_[id] = token.find("content")->as_string();
        kinds_[id] = flag_of(token, "special") ? GgufTokenKind::control : GgufTokenKind::user_defined;
        stripping +=
            flag_of(token, "lstrip") || flag_of(token, "rstrip") || flag_of(token, "single_word") ? 1 : 0;
      }
    }
    for (size_t i = 0; i < rows; ++i) {
      if (kinds_[i] == GgufTokenKind::unused) tokens_[i] = fmt::format("[PAD{}]", i);
    }
    if (dropped > 0)
      plan_.notes.push_back(fmt::format("{} tokens without a row in the embedding are left out", dropped));
    if (stripping > 0)
      plan_.notes.push_back(fmt::format(
          "{} added tokens take spaces or whole words only, which GGUF does not record", stripping));
    for (const Json& merge : model.find("merges")->items()) {
      if (merge.is_array()) {
        merges_.emplace_back(merge.items()[0].as_string(), merge.items()[1].as_string());
      } else {
        const std::string& text = merge.as_string();
        merges_.emplace_back(text.substr(0, text.find(' ')), text.substr(text.find(' ') + 1));
      }
    }
    return {};
  }

  Status write_pieces(const Json& model) {
    const auto prefix = adds_space_prefix(root_.find("normalizer"));
    const Json* pre = root_.find("pre_tokenizer");
    if (!prefix || (pre != nullptr && !pre->is_null()))
      return refused("tokenizer.json: normalizer", "not one of the SentencePiece kind that GGUF can name");
    if (const Json* unknown = model.find("unk_token"); unknown != nullptr && unknown->is_string()) {
      if (const auto id = tokenizer_.token_id(unknown->as_string()); id && size_t(*id) < tokens_.size()) {
        kinds_[size_t(*id)] = GgufTokenKind::unknown;
        plan_.pairs.add("tokenizer.ggml.unknown_token_id", static_cast<uint32_t>(*id));
      }
    }
    for (size_t i = 0; i < tokens_.size(); ++i) {
      const std::string& text = tokens_[i];
      const bool is_byte = text.size() == 6 && text.starts_with("<0x") && text.ends_with('>');
      if (is_byte && kinds_[i] == GgufTokenKind::normal) kinds_[i] = GgufTokenKind::byte;
    }
    // Only ordinary pieces take part in merges.
    std::vector<std::string> pieces(tokens_.size());
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (kinds_[i] == GgufTokenKind::normal) pieces[i] = tokens_[i];
    }
    auto scores = scores_of_merges(pieces, merges_);
    if (!scores) return refused("tokenizer.json: model.merges", "no scores of pieces give these merges");
    for (size_t i = 0; i < pieces.size(); ++i) {
      if (pieces[i].empty()) (*scores)[i] = 0.0f;
    }
    plan_.pairs.add("tokenizer.ggml.model", "llama");
    plan_.pairs.add("tokenizer.ggml.pre", "default");
    write_tokens();
    plan_.pairs.add("tokenizer.ggml.scores", *scores);
    plan_.pairs.add("tokenizer.ggml.add_space_prefix", *prefix);
    return {};
  }

  void write_tokens() {
    plan_.pairs.add("tokenizer.ggml.tokens", tokens_);
    plan_.pairs.add("tokenizer.ggml.token_type", kinds_);
  }

  void write_ids() {
    const auto add = [&](const char* key, int32_t id) {
      if (id >= 0 && size_t(id) < tokens_.size()) plan_.pairs.add(key, static_cast<uint32_t>(id));
    };
    add("tokenizer.ggml.bos_token_id", tokenizer_.bos_id().value_or(config_.bos_id));
    const int32_t first = config_.eos_ids.empty() ? -1 : config_.eos_ids.front();
    const int32_t eos = tokenizer_.eos_id().value_or(first);
    add("tokenizer.ggml.eos_token_id", eos);
    std::vector<int32_t> others;
    for (const int32_t id : config_.eos_ids) {
      if (id != eos) others.push_back(id);
    }
    if (!others.empty()) add("tokenizer.ggml.eot_token_id", others.front());
    if (others.size() > 1)
      plan_.notes.push_back(fmt::format("{} of {} end-of-text ids are left out; GGUF has two",
                                        others.size() - 1, config_.eos_ids.size()));
    const auto framed = tokenizer_.encode("", {.add_special = true});
    const bool adds_eos = framed && !framed->empty() && framed->back() == eos && eos >= 0 &&
                          (framed->size() > 1 || !tokenizer_.adds_bos());
    plan_.pairs.add("tokenizer.ggml.add_bos_token", tokenizer_.adds_bos());
    plan_.pairs.add("tokenizer.ggml.add_eos_token", adds_eos);
  }

  const Json& root_;
  const Tokenizer& tokenizer_;
  const ModelConfig& config_;
  std::string_view path_;
  GgufPlan& plan_;
  std::vector<std::string> tokens_;
  std::vector<int32_t> kinds_;
  std::vector<std::pair<std::string, std::string>> merges_;
};

Status add_chat_template(const WeightSource& source, GgufPlan& plan) {
  if (const Asset* asset = source.asset("chat_template.jinja")) {
    plan.pairs.add("tokenizer.chat_template", asset->bytes);
    return {};
  }
  const Asset* asset = source.asset("tokenizer_config.json");
  if (asset == nullptr) return {};
  PARE_TRY(const Json config, parse_json(asset->bytes, source.path() + ": tokenizer_config.json",
                                         {.max_bytes = limits::kConfigBytes}, "CF15"));
  const Json* text = config.find("chat_template");
  if (text == nullptr || text->is_null()) return {};
  if (text->is_string()) {
    plan.pairs.add("tokenizer.chat_template", text->as_string());
    return {};
  }
  plan.notes.push_back("only the default of several chat templates is written");
  if (!text->is_array()) return {};
  for (const Json& item : text->items()) {
    const Json* body = item.find("template");
    if (text_is(&item, "name", "default") && body != nullptr && body->is_string())
      plan.pairs.add("tokenizer.chat_template", body->as_string());
  }
  return {};
}

}  // namespace

Status add_gguf_tokenizer(const WeightSource& source, const ModelConfig& config, GgufPlan& plan) {
  if (source.asset("tokenizer.json") == nullptr) {
    plan.pairs.add("tokenizer.ggml.model", "none");
    plan.notes.push_back("the model has no tokenizer.json; neither has the output");
    return {};
  }
  PARE_TRY(const TokenizerFiles files, tokenizer_files(source));
  PARE_TRY(const auto tokenizer, Tokenizer::load(files));
  PARE_TRY(const Json root, parse_json(files.tokenizer_json, files.tokenizer_json_path,
                                       {.max_bytes = limits::kTokenizerBytes}, "TK01"));
  PARE_CHECK(TokenizerWriter(root, *tokenizer, config, source.path(), plan).write());
  return add_chat_template(source, plan);
}

}  // namespace pare
