#include <fmt/core.h>

#include <algorithm>
#include <unordered_map>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "engine/tokenizer/load.h"

namespace pare {
namespace {

Result<AddedToken> load_token(const Fields& entry) {
  AddedToken token;
  PARE_TRY(token.content, entry.text("content"));
  PARE_TRY(token.special, entry.boolean("special", false));
  PARE_TRY(token.normalized, entry.boolean("normalized", !token.special));
  PARE_TRY(token.single_word, entry.boolean("single_word", false));
  PARE_TRY(token.lstrip, entry.boolean("lstrip", false));
  PARE_TRY(token.rstrip, entry.boolean("rstrip", false));
  if (token.content.empty() || token.content.size() > limits::kTokenBytes) {
    Error error = entry.malformed("TK07", "content", token.content.empty() ? "empty token" : "token too long",
                                  fmt::format("{} bytes", token.content.size()));
    error.limit = token.content.empty() ? "1 to 4 KiB" : "4 KiB";
    return error;
  }
  return token;
}

Result<int32_t> load_id(const Fields& entry, const std::string& content, int64_t bound) {
  const Json* id = entry.find("id");
  const auto bad = [&](std::string what, std::string got) {
    Error error = entry.malformed("TK06", "id", fmt::format("{} {}", quote(content), what), std::move(got));
    error.limit = std::to_string(bound);
    return error;
  };
  if (id == nullptr || !id->is_integer())
    return bad("has no integer id", id == nullptr ? "nothing" : id->kind_name());
  if (id->kind() != Json::Kind::integer || id->as_int() < 0 || id->as_int() >= bound) {
    return bad("has an id outside vocabulary and added tokens", id->dump());
  }
  return static_cast<int32_t>(id->as_int());
}

// The token is in the vocabulary under this very id, or neither text nor id is there.
Status check_clash(const Fields& entry, const AddedToken& token, const Vocabulary& vocabulary) {
  const auto known = vocabulary.find(token.content);
  if (known == token.id || (!known && !vocabulary.contains(token.id))) return {};
  Error error =
      entry.malformed("TK06", "id", fmt::format("{} clashes with the vocabulary", quote(token.content)),
                      std::to_string(token.id));
  error.limit = known ? std::to_string(*known) : fmt::format("not {}", quote(vocabulary.text(token.id)));
  error.limit_label = "expected";
  return error;
}

}  // namespace

Result<std::vector<AddedToken>> load_added_tokens(const Fields& root, const Vocabulary& vocabulary,
                                                  const NormalizerChain& normalizer) {
  std::vector<AddedToken> tokens;
  if (!root.has("added_tokens")) return tokens;
  PARE_TRY(const Json* list, root.array("added_tokens"));
  if (list->size() > limits::kVocabulary) {
    return Error{.exit = Exit::resource,
                 .rule = "TK06",
                 .path = root.path(),
                 .where = "added_tokens",
                 .what = "too many added tokens",
                 .got = std::to_string(list->size()),
                 .limit = std::to_string(limits::kVocabulary)};
  }
  const int64_t bound =
      std::max(vocabulary.size(), vocabulary.id_bound()) + static_cast<int64_t>(list->size());
  std::unordered_map<int32_t, size_t> by_id;
  std::unordered_map<std::string, size_t> by_content;
  tokens.reserve(list->size());
  for (size_t i = 0; i < list->size(); ++i) {
    const Fields entry((*list)[i], root.path(), fmt::format("added_tokens[{}]", i));
    if (!entry.json().is_object())
      return root.malformed("TK01", fmt::format("added_tokens[{}]", i), "not an object");
    PARE_TRY(AddedToken token, load_token(entry));
    PARE_TRY(token.id, load_id(entry, token.content, bound));
    PARE_CHECK(check_clash(entry, token, vocabulary));
    if (!by_id.emplace(token.id, i).second || !by_content.emplace(token.content, i).second) {
      return entry.malformed("TK06", "id", fmt::format("{} repeats an id or a text", quote(token.content)),
                             std::to_string(token.id));
    }
    token.pattern = token.content;
    if (token.normalized) PARE_CHECK(normalizer.apply(token.pattern));
    tokens.push_back(std::move(token));
  }
  return tokens;
}

}  // namespace pare
