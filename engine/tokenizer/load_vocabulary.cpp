#include <fmt/core.h>

#include <cmath>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "engine/tokenizer/load.h"

namespace pare {
namespace {

Status check_text(const Fields& model, std::string_view token, size_t index) {
  if (!token.empty() && token.size() <= limits::kTokenBytes) return {};
  return Error{.exit = Exit::malformed,
               .rule = "TK07",
               .path = model.path(),
               .where = fmt::format("{}[{}]", model.at("vocab"), index),
               .what = token.empty() ? "empty token" : "token too long",
               .got = fmt::format("{} bytes", token.size()),
               .limit = token.empty() ? "1 to 4 KiB" : "4 KiB"};
}

Status check_count(const Fields& model, size_t count) {
  if (count <= limits::kVocabulary) return {};
  return Error{.exit = Exit::resource,
               .rule = "TK02",
               .path = model.path(),
               .where = model.at("vocab"),
               .what = "vocabulary too large",
               .got = std::to_string(count),
               .limit = std::to_string(limits::kVocabulary)};
}

Result<Vocabulary> from_object(const Fields& model, const Json& json, size_t added_tokens) {
  Vocabulary vocabulary;
  const uint64_t bound = 2 * (json.size() + added_tokens) + limits::kTokenIdSlack;
  size_t index = 0;
  for (const Json::Member& member : json.members()) {
    const std::string& token = member.first;
    const Json& value = member.second;
    PARE_CHECK(check_text(model, token, index++));
    const auto bad_id = [&](std::string_view what, std::string got) {
      return Error{.exit = Exit::malformed,
                   .rule = "TK02",
                   .path = model.path(),
                   .where = fmt::format("{}[{}]", model.at("vocab"), quote(token)),
                   .what = std::string(what),
                   .got = std::move(got),
                   .limit = std::to_string(bound)};
    };
    if (!value.is_integer()) return bad_id("token id is not an integer", value.kind_name());
    if (value.kind() == Json::Kind::integer && value.as_int() < 0) {
      return bad_id("token id is negative", std::to_string(value.as_int()));
    }
    if (value.as_uint() >= bound)
      return bad_id("token id far beyond the count", std::to_string(value.as_uint()));
    const auto id = static_cast<int32_t>(value.as_uint());
    if (vocabulary.contains(id)) {
      return Error{
          .exit = Exit::malformed,
          .rule = "TK03",
          .path = model.path(),
          .where = model.at("vocab"),
          .what = fmt::format("{} and {} have the same id", quote(vocabulary.text(id)), quote(token)),
          .got = std::to_string(id)};
    }
    vocabulary.add(token, id);
  }
  return vocabulary;
}

Result<Vocabulary> from_scored_list(const Fields& model, const Json& json, std::vector<double>& scores) {
  Vocabulary vocabulary;
  for (size_t i = 0; i < json.size(); ++i) {
    const Json& entry = json[i];
    const auto bad = [&](std::string_view rule, std::string_view what) {
      return Error{.exit = Exit::malformed,
                   .rule = std::string(rule),
                   .path = model.path(),
                   .where = fmt::format("{}[{}]", model.at("vocab"), i),
                   .what = std::string(what)};
    };
    if (!entry.is_array() || entry.size() == 0 || !entry[0].is_string())
      return bad("TK13", "not a [piece, score] pair");
    if (entry.size() != 2 || !entry[1].is_number()) return bad("TK13", "piece without a score");
    const std::string& piece = entry[0].as_string();
    PARE_CHECK(check_text(model, piece, i));
    const double score = entry[1].as_double();
    if (!std::isfinite(score)) return bad("TK13", "score is not finite");
    if (const auto other = vocabulary.find(piece)) {
      return bad("TK03", fmt::format("{} is also piece {}", quote(piece), *other));
    }
    vocabulary.add(piece, static_cast<int32_t>(i));
    scores.push_back(score);
  }
  return vocabulary;
}

}  // namespace

Result<Vocabulary> load_vocabulary(const Fields& model, size_t added_tokens, std::vector<double>* scores) {
  PARE_TRY(const Json* json, scores == nullptr ? model.object("vocab") : model.array("vocab"));
  PARE_CHECK(check_count(model, json->size()));
  if (scores == nullptr) return from_object(model, *json, added_tokens);
  return from_scored_list(model, *json, *scores);
}

}  // namespace pare
