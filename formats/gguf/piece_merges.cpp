#include "formats/gguf/piece_merges.h"

#include <algorithm>
#include <unordered_map>

namespace pare {
namespace {

bool starts_character(char byte) {
  return (static_cast<unsigned char>(byte) & 0xc0u) != 0x80u;
}

struct Candidate {
  PieceMerge merge;
  float score;
  size_t left_id, right_id;
};

}  // namespace

std::vector<PieceMerge> merges_of_scores(std::span<const ScoredPiece> pieces) {
  std::unordered_map<std::string_view, size_t> ids;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (pieces[i].joins) ids.emplace(pieces[i].text, i);
  }
  std::vector<Candidate> candidates;
  for (const ScoredPiece& piece : pieces) {
    if (!piece.joins) continue;
    const size_t first = candidates.size();
    for (size_t cut = 1; cut < piece.text.size(); ++cut) {
      if (!starts_character(piece.text[cut])) continue;
      const auto left = ids.find(piece.text.substr(0, cut)), right = ids.find(piece.text.substr(cut));
      if (left == ids.end() || right == ids.end()) continue;
      candidates.push_back(
          {{piece.text.substr(0, cut), piece.text.substr(cut)}, piece.score, left->second, right->second});
    }
    std::sort(candidates.begin() + static_cast<std::ptrdiff_t>(first), candidates.end(),
              [](const Candidate& a, const Candidate& b) {
                return std::pair(a.left_id, a.right_id) < std::pair(b.left_id, b.right_id);
              });
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
  std::vector<PieceMerge> merges;
  merges.reserve(candidates.size());
  for (const Candidate& candidate : candidates) merges.push_back(candidate.merge);
  return merges;
}

std::optional<std::vector<float>> scores_of_merges(
    std::span<const std::string> texts, std::span<const std::pair<std::string, std::string>> merges) {
  std::unordered_map<std::string, float> ranks;  // of the results, by first merge
  std::string last;
  for (const auto& [left, right] : merges) {
    const std::string joined = left + right;
    if (joined != last && !ranks.emplace(joined, -float(ranks.size())).second)
      return std::nullopt;  // torn apart
    last = joined;
  }
  std::vector<ScoredPiece> pieces;
  std::vector<float> scores;
  const float lowest = -float(ranks.size()) - 1.0f;
  for (const std::string& text : texts) {
    const auto found = ranks.find(text);
    scores.push_back(found == ranks.end() ? lowest : found->second);
    pieces.push_back({text, scores.back(), !text.empty()});
  }
  // The same pairs for every piece, whatever their order within it.
  auto made = merges_of_scores(pieces);
  std::vector<PieceMerge> wanted;
  for (const auto& [left, right] : merges) wanted.emplace_back(left, right);
  std::sort(made.begin(), made.end());
  std::sort(wanted.begin(), wanted.end());
  if (made != wanted) return std::nullopt;
  return scores;
}

}  // namespace pare
