#include "engine/tokenizer/model_unigram.h"

#include <algorithm>

#include "engine/tokenizer/unicode.h"

namespace pare {
namespace {
constexpr double kUnknownPenalty = 10.0;
constexpr int32_t kNotReached = -2;
}  // namespace

UnigramModel::UnigramModel(Vocabulary vocabulary, std::vector<double> scores, int32_t unknown,
                           bool byte_fallback)
    : Model(std::move(vocabulary)),
      scores_(std::move(scores)),
      unknown_(unknown),
      byte_fallback_(byte_fallback) {
  for (int32_t id = 0; id < static_cast<int32_t>(scores_.size()); ++id) trie_.add(vocabulary_.text(id), id);
  unknown_score_ = *std::min_element(scores_.begin(), scores_.end()) - kUnknownPenalty;
  byte_ids_ = byte_token_ids(vocabulary_);
}

// path[p]: the best way to cover piece[0, p), by its last token.
void UnigramModel::best_paths(std::string_view piece, std::vector<Scratch::PathNode>& path) const {
  path.assign(piece.size() + 1, {});
  path[0].id = unknown_;  // any id: the start is reached
  const auto offer = [&path](size_t end, size_t start, double score, int32_t id) {
    Scratch::PathNode& node = path[end];
    if (node.id == kNotReached || score > node.score) node = {score, static_cast<uint32_t>(start), id};
  };
  for (size_t start = 0; start < piece.size();) {
    const size_t character_end = start + unicode::decode_at(piece.data() + start).bytes;
    const double so_far = path[start].score;
    bool single = false;  // a token that is just this character
    uint32_t node = ByteTrie::kRoot;
    for (size_t end = start; end < piece.size();) {
      node = trie_.step(node, piece[end++]);
      if (node == ByteTrie::kRoot) break;
      const int32_t id = trie_.value(node);
      if (id == ByteTrie::kNone) continue;
      offer(end, start, scores_[static_cast<size_t>(id)] + so_far, id);
      single = single || end == character_end;
    }
    if (!single) offer(character_end, start, unknown_score_ + so_far, unknown_);
    start = character_end;
  }
}

void UnigramModel::append_unknown(std::string_view run, std::vector<int32_t>& ids) const {
  // A run of unknown characters may spell a token that no path used.
  if (const auto id = vocabulary_.find(run)) {
    ids.push_back(*id);
    return;
  }
  bool all_bytes = byte_fallback_;
  for (char byte : run) all_bytes = all_bytes && byte_ids_[static_cast<unsigned char>(byte)] >= 0;
  if (!all_bytes) {
    ids.push_back(unknown_);
    return;
  }
  for (char byte : run) ids.push_back(byte_ids_[static_cast<unsigned char>(byte)]);
}

void UnigramModel::encode_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  std::vector<Scratch::PathNode>& path = scratch.path;
  best_paths(piece, path);
  // Back from the end, remembering for each start the end of its token.
  size_t end = piece.size();
  std::vector<int32_t>& ends = scratch.symbols;
  ends.clear();
  while (end > 0) {
    ends.push_back(static_cast<int32_t>(end));
    end = path[end].start;
  }
  for (size_t i = ends.size(), start = 0; i > 0;) {
    size_t stop = static_cast<size_t>(ends[--i]);
    if (path[stop].id != unknown_) {
      ids.push_back(path[stop].id);
    } else {
      while (i > 0 && path[static_cast<size_t>(ends[i - 1])].id == unknown_)
        stop = static_cast<size_t>(ends[--i]);
      append_unknown(piece.substr(start, stop - start), ids);
    }
    start = stop;
  }
}

}  // namespace pare
