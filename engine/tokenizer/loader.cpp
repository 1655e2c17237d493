// Tokenizer::load: reads all parts, checks them against each other, and folds what can be folded.
#include <fmt/core.h>

#include <algorithm>

#include "engine/core/limits.h"
#include "engine/tokenizer/byte_level.h"
#include "engine/tokenizer/model_bpe.h"
#include "engine/tokenizer/parts.h"

namespace pare {
namespace {

Status check_version(const Fields& root) {
  const Json* version = root.json().find("version");
  if (version == nullptr) return {};
  if (version->is_string() && version->as_string() == "1.0") return {};
  return Error{.exit = Exit::unsupported,
               .rule = "TK19",
               .path = root.path(),
               .where = "version",
               .what = "unknown version of the format",
               .got = version->dump(),
               .limit = "\"1.0\"",
               .limit_label = "expected"};
}

// Order of truth: the post-processor; if it adds nothing, the configuration; an explicit "false" overrides.
void apply_config(const ConfigTokens& config, Tokenizer::Parts& parts) {
  const auto find = [&parts](const std::optional<std::string>& text) -> std::optional<int32_t> {
    if (!text) return std::nullopt;
    for (const AddedToken& token : parts.added) {
      if (token.content == *text) return token.id;
    }
    return parts.model->vocabulary().find(*text);
  };
  parts.bos = find(config.bos);
  parts.eos = find(config.eos);
  Framing& framing = parts.framing;
  if (framing.empty()) {
    if (config.add_bos == true && parts.bos) framing.before = {*parts.bos};
    if (config.add_eos == true && parts.eos) framing.after = {*parts.eos};
  }
  if (!config.bos && !framing.before.empty()) parts.bos = framing.before.front();
  if (!config.eos && !framing.after.empty()) parts.eos = framing.after.back();
  if (config.explicit_no_bos && !framing.before.empty() && framing.before.front() == parts.bos) {
    framing.before.erase(framing.before.begin());
  }
  if (config.explicit_no_eos && !framing.after.empty() && framing.after.back() == parts.eos) {
    framing.after.pop_back();
  }
}

void index_added_tokens(Tokenizer::Parts& parts) {
  const Vocabulary& vocabulary = parts.model->vocabulary();
  parts.id_bound = vocabulary.id_bound();
  parts.token_count = vocabulary.size();
  for (const AddedToken& token : parts.added) {
    parts.id_bound = std::max<int64_t>(parts.id_bound, token.id + int64_t{1});
    if (!vocabulary.contains(token.id)) ++parts.token_count;
  }
  parts.added_by_id.assign(static_cast<size_t>(parts.id_bound), -1);
  for (size_t i = 0; i < parts.added.size(); ++i) {
    const AddedToken& token = parts.added[i];
    parts.added_by_id[static_cast<size_t>(token.id)] = static_cast<int32_t>(i);
    AddedTokenMatcher& matcher = token.normalized ? parts.normalized_matcher : parts.raw_matcher;
    if (!token.pattern.empty()) matcher.add(&token);  // normalisation may leave nothing to look for
  }
}

void tabulate_bytes(Tokenizer::Parts& parts) {
  if (!parts.decoder.only_byte_level()) return;
  parts.token_bytes_end.reserve(static_cast<size_t>(parts.id_bound));
  for (int32_t id = 0; id < static_cast<int32_t>(parts.id_bound); ++id) {
    const std::string_view text = parts.decoder_text(id);
    if (const auto bytes = byte_level::unmap(text)) {
      parts.token_bytes += *bytes;
    } else {
      parts.token_bytes += text;
    }
    parts.token_bytes_end.push_back(parts.token_bytes.size());
  }
}

// Covers what decides on ids and text, in one canonical form; not the layout of the JSON, nor truncation,
// padding and the template of pairs.
Hash128 hash_definition(const Fields& root, const LoadedModel& loaded, const Tokenizer::Parts& parts) {
  Xxh3Stream stream;
  const auto add = [&stream](std::string_view text) {
    const uint64_t size = text.size();
    stream.update(std::as_bytes(std::span(&size, 1)));
    stream.update(std::as_bytes(std::span(text.data(), text.size())));
  };
  const auto add_ids = [&stream](const std::vector<int32_t>& ids) {
    const uint64_t size = ids.size();
    stream.update(std::as_bytes(std::span(&size, 1)));
    stream.update(std::as_bytes(std::span(ids)));
  };
  add(loaded.options);
  const Vocabulary& vocabulary = parts.model->vocabulary();
  for (int32_t id = 0; id < static_cast<int32_t>(vocabulary.id_bound()); ++id) add(vocabulary.text(id));
  add_ids(loaded.merges);
  for (std::string_view key : {"normalizer", "pre_tokenizer", "decoder"}) {
    const Json* part = root.find(key);
    add(part == nullptr ? "null" : part->dump_sorted());
  }
  for (int32_t index : parts.added_by_id) {  // by id, whatever the order of the file
    if (index < 0) continue;
    const AddedToken& token = parts.added[static_cast<size_t>(index)];
    add(fmt::format("{} {} {} {} {} {} {}", token.id, token.single_word, token.lstrip, token.rstrip,
                    token.normalized, token.special, token.content));
  }
  add_ids(parts.framing.before);
  add_ids(parts.framing.after);
  add_ids({parts.bos.value_or(-1), parts.eos.value_or(-1)});
  return stream.digest();
}

}  // namespace

const AddedToken* Tokenizer::Parts::added_token(int32_t id) const {
  if (id < 0 || id >= id_bound) return nullptr;
  const int32_t index = added_by_id[static_cast<size_t>(id)];
  return index < 0 ? nullptr : &added[static_cast<size_t>(index)];
}

std::string_view Tokenizer::Parts::decoder_text(int32_t id) const {
  const AddedToken* token = added_token(id);
  return token != nullptr ? std::string_view(token->pattern) : model->vocabulary().text(id);
}

std::unique_ptr<Scratch> ScratchPool::take() {
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      auto scratch = std::move(free_.back());
      free_.pop_back();
      return scratch;
    }
    free_.reserve(kKept);  // so that put() never allocates
  }
  return std::make_unique<Scratch>();
}

void ScratchPool::put(std::unique_ptr<Scratch> scratch) noexcept {
  const std::lock_guard lock(mutex_);
  if (free_.size() < kKept) free_.push_back(std::move(scratch));
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::load(const TokenizerFiles& files) {
  const JsonLimits limits{.max_bytes = limits::kTokenizerBytes};
  PARE_TRY(const Json json, parse_json(files.tokenizer_json, files.tokenizer_json_path, limits, "TK01"));
  const Fields root(json, files.tokenizer_json_path, "");
  PARE_CHECK(check_version(root));

  auto parts = std::make_unique<Parts>();
  parts->path = files.tokenizer_json_path;
  PARE_TRY(parts->normalizer, load_normalizer(root));
  PARE_TRY(LoadedPreTokenizer pre_tokenizer, load_pre_tokenizer(root));
  PARE_TRY(LoadedModel loaded, load_model(root, pre_tokenizer.ends_in_byte_map));
  parts->model = std::move(loaded.model);
  parts->pre_tokenizers = std::move(pre_tokenizer.steps);
  parts->byte_level = pre_tokenizer.ends_in_byte_map;
  const auto* bpe = dynamic_cast<const BpeModel*>(parts->model.get());
  if (bpe != nullptr && bpe->options().raw_bytes) parts->pre_tokenizers.pop_back();
  if (!parts->pre_tokenizers.empty() && parts->pre_tokenizers.back()->scanner() != nullptr) {
    parts->scanner = *parts->pre_tokenizers.back()->scanner();
    parts->pre_tokenizers.pop_back();
  }
  PARE_TRY(parts->added, load_added_tokens(root, parts->model->vocabulary(), parts->normalizer));
  PARE_TRY(parts->decoder, load_decoder(root));
  index_added_tokens(*parts);
  PARE_TRY(parts->framing, load_post_processor(root, parts->id_bound));
  PARE_TRY(const ConfigTokens config,
           load_config(files.tokenizer_config_json, files.tokenizer_config_path,
                       files.special_tokens_map_json, files.special_tokens_map_path));
  apply_config(config, *parts);
  tabulate_bytes(*parts);
  parts->hash = hash_definition(root, loaded, *parts);
  return std::shared_ptr<const Tokenizer>(std::make_shared<Tokenizer>(std::move(parts)));
}

}  // namespace pare
