// engine/tokenizer/pre_tokenizers.h: cutting a text into the pieces that the model sees. A chain of small
// steps.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/result.h"
#include "engine/tokenizer/pattern_scanner.h"
#include "engine/tokenizer/piece.h"
#include "engine/tokenizer/regex.h"

namespace pare {

// A text and its pieces, none of them empty. Steps that rewrite point `text` at their own copy, `owned`.
struct PieceList {
  std::string_view text;
  std::string owned;
  std::vector<Piece> pieces;
  bool at_start = false;  // the first piece begins at offset 0 of the whole input

  PieceList(std::string_view whole, bool begins_input);
  PieceList(const PieceList&) = delete;
  PieceList& operator=(const PieceList&) = delete;
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  // Error: TK09 of a pattern.
  virtual Status apply(PieceList& list) const = 0;
  // The scanner, when the step does nothing but cut at the matches of a known pattern.
  virtual const PatternScanner* scanner() const { return nullptr; }
};
using PreTokenizerStep = std::unique_ptr<const PreTokenizer>;

enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };
enum class PrependScheme { always, first, never };

PreTokenizerStep make_prefix_space();  // ByteLevel's add_prefix_space
PreTokenizerStep make_byte_map();      // ByteLevel's table
PreTokenizerStep make_scanner_split(PatternScanner scanner);
PreTokenizerStep make_regex_split(std::shared_ptr<const Regex> regex, SplitBehavior behavior, bool invert);
PreTokenizerStep make_literal_split(std::string literal, SplitBehavior behavior, bool invert);
PreTokenizerStep make_class_split(bool (*is_match)(uint32_t code), SplitBehavior behavior);
PreTokenizerStep make_metaspace(uint32_t replacement, PrependScheme scheme, bool split);
PreTokenizerStep make_whitespace();  // \w+|[^\w\s]+
PreTokenizerStep make_fixed_length(uint64_t characters);

// Appends the pieces of `whole` that `behavior` makes of the matches inside it (ascending, not overlapping).
// `invert` swaps matches and gaps. `out` gets no empty piece.
void split_by_matches(Piece whole, const std::vector<Piece>& matches, SplitBehavior behavior, bool invert,
                      std::vector<Piece>& out);

}  // namespace pare
