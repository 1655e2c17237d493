// formats/gguf/piece_merges.h: scores of pieces <-> a list of merges; internal to formats.
//
// A tokenizer of the SentencePiece kind joins the pair whose union has the highest score. As a list of
// merges: every way to cut a piece into two pieces, by falling score.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pare {

struct ScoredPiece {
  std::string_view text;  // UTF-8
  float score = 0.0f;
  bool joins = true;  // an ordinary piece; others (control, bytes) are never joined nor the result of it
};

using PieceMerge = std::pair<std::string_view, std::string_view>;

// Views of the texts of `pieces`.
std::vector<PieceMerge> merges_of_scores(std::span<const ScoredPiece> pieces);

// Scores that give these merges back: by piece, in the order of `texts`; higher for earlier merges. Nothing
// when no scores can: a piece is cut in another way than the list says, or its merges do not stand together.
std::optional<std::vector<float>> scores_of_merges(
    std::span<const std::string> texts, std::span<const std::pair<std::string, std::string>> merges);

}  // namespace pare
