#include "engine/tokenizer/load_merges.h"

#include <fmt/core.h>

#include "engine/core/limits.h"
#include "engine/core/text.h"

namespace pare {
namespace {

class MergeReader {
 public:
  MergeReader(const Fields& model, const Vocabulary& vocabulary, std::string_view prefix)
      : model_(model), vocabulary_(vocabulary), prefix_(prefix) {}

  Status read(const Json& entry, size_t index, bool as_text, LoadedMerges& merges) {
    std::string_view left, right;
    if (as_text) {
      if (!entry.is_string()) return bad(index, "not a string like the first merge", entry.kind_name());
      const std::string_view pair = entry.as_string();
      const size_t space = pair.find(' ');
      if (space == std::string_view::npos || pair.find(' ', space + 1) != std::string_view::npos) {
        return bad(index, "not two tokens with one space between", quote(pair));
      }
      left = pair.substr(0, space);
      right = pair.substr(space + 1);
    } else {
      if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_string()) {
        return bad(index, "not a pair of tokens", entry.kind_name());
      }
      left = entry[0].as_string();
      right = entry[1].as_string();
    }
    PARE_TRY(const int32_t left_id, id_of(left, index));
    PARE_TRY(const int32_t right_id, id_of(right, index));
    if (right.size() < prefix_.size())
      return bad(index, "second token is shorter than the prefix", quote(right));
    joined_ = left;
    joined_ += right.substr(prefix_.size());
    PARE_TRY(const int32_t result, id_of(joined_, index));
    merges.ranks.set(left_id, right_id, {static_cast<uint32_t>(index), result});
    merges.pairs.push_back(left_id);
    merges.pairs.push_back(right_id);
    return {};
  }

 private:
  Result<int32_t> id_of(std::string_view token, size_t index) const {
    if (const auto id = vocabulary_.find(token)) return *id;
    return bad(index, "token not in vocabulary", quote(token));
  }
  Error bad(size_t index, std::string_view what, std::string got) const {
    return Error{.exit = Exit::malformed,
                 .rule = "TK04",
                 .path = model_.path(),
                 .where = fmt::format("{}[{}]", model_.at("merges"), index),
                 .what = std::string(what),
                 .got = std::move(got)};
  }

  const Fields& model_;
  const Vocabulary& vocabulary_;
  std::string_view prefix_;
  std::string joined_;
};

}  // namespace

Result<LoadedMerges> load_merges(const Fields& model, const Vocabulary& vocabulary,
                                 std::string_view continuing_prefix) {
  PARE_TRY(const Json* list, model.array("merges"));
  if (list->size() > limits::kMerges) {
    return Error{.exit = Exit::resource,
                 .rule = "TK05",
                 .path = model.path(),
                 .where = model.at("merges"),
                 .what = "too many merges",
                 .got = std::to_string(list->size()),
                 .limit = std::to_string(limits::kMerges)};
  }
  LoadedMerges merges;
  merges.ranks.reserve(list->size());
  merges.pairs.reserve(list->size() * 2);
  const bool as_text = list->size() > 0 && (*list)[0].is_string();
  MergeReader reader(model, vocabulary, continuing_prefix);
  for (size_t i = 0; i < list->size(); ++i) PARE_CHECK(reader.read((*list)[i], i, as_text, merges));
  return merges;
}

}  // namespace pare
