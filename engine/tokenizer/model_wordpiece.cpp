#include "engine/tokenizer/model_wordpiece.h"

#include "engine/tokenizer/unicode.h"

namespace pare {

WordPieceModel::WordPieceModel(Vocabulary vocabulary, int32_t unknown, std::string_view continuing_prefix,
                               int64_t max_characters)
    : Model(std::move(vocabulary)),
      unknown_(unknown),
      max_characters_(max_characters),
      has_prefix_(!continuing_prefix.empty()) {
  for (int32_t id = 0; id < static_cast<int32_t>(vocabulary_.id_bound()); ++id) {
    if (vocabulary_.contains(id)) trie_.add(vocabulary_.text(id), id);
  }
  inside_ = trie_.walk(continuing_prefix);
}

void WordPieceModel::encode_piece(std::string_view piece, Scratch&, std::vector<int32_t>& ids) const {
  const size_t before = ids.size();
  bool covered = unicode::count_characters(piece) <= max_characters_;
  for (size_t start = 0; covered && start < piece.size();) {
    const bool inside = start > 0 && has_prefix_;
    ByteTrie::Match match;
    if (!inside || inside_ != ByteTrie::kRoot) {
      match = trie_.longest(piece.substr(start), inside ? inside_ : ByteTrie::kRoot);
    }
    covered = match.bytes > 0;
    start += match.bytes;
    if (covered) ids.push_back(match.value);
  }
  if (covered) return;
  ids.resize(before);
  ids.push_back(unknown_);
}

}  // namespace pare
