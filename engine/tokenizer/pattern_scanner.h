// engine/tokenizer/pattern_scanner.h: linear scanners for the split patterns that nearly all byte-level
// models use.
//
// A pattern is recognised by its exact text; everything else goes to Regex. Each scanner returns what the
// backtracking engine would return, without backtracking: every alternative is decided by class runs, and
// every run is read a bounded number of times. These patterns match at every position, so the matches tile
// the text.
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "engine/tokenizer/piece.h"

namespace pare {

class PatternScanner {
 public:
  enum class Kind { gpt2, llama3, qwen2, gpt4o };

  static std::optional<PatternScanner> recognise(std::string_view pattern);
  static std::string_view pattern_of(Kind kind);
  explicit PatternScanner(Kind kind) : kind_(kind) {}
  Kind kind() const { return kind_; }

  // Writes the next matches from `begin` on, at most out.size(); returns how many. The last one ends at the
  // end of the text or fills `out`. `text` is one subject: no look-behind, and look-ahead stops at its end.
  size_t scan(std::string_view text, size_t begin, std::span<Piece> out) const;

  // A place at or after `wanted` where a match is certain to begin whatever precedes it, so that both sides
  // can be scanned apart: a letter, a space, a letter. The end of the text when there is none.
  static size_t safe_cut(std::string_view text, size_t wanted);

 private:
  Kind kind_;
};

}  // namespace pare
