// What becomes of matches and gaps.
#include <algorithm>

#include "engine/tokenizer/pre_tokenizers.h"

namespace pare {
namespace {

struct Part {
  Piece range;
  bool is_match;
};

// Matches and the gaps between them, in order, covering `whole`.
std::vector<Part> parts_of(Piece whole, const std::vector<Piece>& matches, bool invert) {
  std::vector<Part> parts;
  parts.reserve(matches.size() * 2 + 1);
  size_t covered = whole.begin;
  for (const Piece& match : matches) {
    if (covered != match.begin) parts.push_back({{covered, match.begin}, invert});
    parts.push_back({match, !invert});
    covered = match.end;
  }
  if (covered != whole.end) parts.push_back({{covered, whole.end}, invert});
  return parts;
}

}  // namespace

void split_by_matches(Piece whole, const std::vector<Piece>& matches, SplitBehavior behavior, bool invert,
                      std::vector<Piece>& out) {
  std::vector<Part> parts = parts_of(whole, matches, invert);
  if (behavior == SplitBehavior::merged_with_next) std::reverse(parts.begin(), parts.end());
  const size_t first = out.size();
  bool previous_match = false;
  for (const Part& part : parts) {
    bool joins = false;
    switch (behavior) {
      case SplitBehavior::removed:
        if (part.is_match) continue;
        break;
      case SplitBehavior::isolated:
        break;
      case SplitBehavior::contiguous:
        joins = part.is_match == previous_match;
        break;
      case SplitBehavior::merged_with_previous:
      case SplitBehavior::merged_with_next:
        joins = part.is_match && !previous_match;
        break;
    }
    previous_match = part.is_match;
    if (!joins || out.size() == first) {
      out.push_back(part.range);
    } else if (behavior == SplitBehavior::merged_with_next) {
      out.back().begin = part.range.begin;
    } else {
      out.back().end = part.range.end;
    }
  }
  const auto begin = out.begin() + static_cast<std::ptrdiff_t>(first);
  if (behavior == SplitBehavior::merged_with_next) std::reverse(begin, out.end());
  out.erase(std::remove_if(begin, out.end(), [](const Piece& p) { return p.begin == p.end; }), out.end());
}

}  // namespace pare
