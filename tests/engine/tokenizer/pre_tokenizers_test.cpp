#include "engine/tokenizer/pre_tokenizers.h"

#include <gtest/gtest.h>

#include "engine/tokenizer/unicode.h"

namespace pare {
namespace {

using Pieces = std::vector<std::string>;

Pieces pieces_of_all(std::string_view text, const std::vector<const PreTokenizer*>& steps,
                     bool at_start = true) {
  PieceList list(text, at_start);
  for (const PreTokenizer* step : steps) EXPECT_TRUE(step->apply(list));
  Pieces pieces;
  for (const Piece& piece : list.pieces) pieces.emplace_back(piece.of(list.text));
  return pieces;
}
Pieces pieces_of(std::string_view text, const PreTokenizerStep& step, bool at_start = true) {
  return pieces_of_all(text, {step.get()}, at_start);
}

TEST(PreTokenizers, Behaviours) {
  // As documented for the reference implementation: "the-final--countdown" cut at "-".
  const std::string_view text = "the-final--countdown";
  const auto cut = [&](SplitBehavior behavior) {
    return pieces_of(text, make_literal_split("-", behavior, false));
  };
  EXPECT_EQ(cut(SplitBehavior::removed), (Pieces{"the", "final", "countdown"}));
  EXPECT_EQ(cut(SplitBehavior::isolated), (Pieces{"the", "-", "final", "-", "-", "countdown"}));
  EXPECT_EQ(cut(SplitBehavior::merged_with_previous), (Pieces{"the-", "final-", "-", "countdown"}));
  EXPECT_EQ(cut(SplitBehavior::merged_with_next), (Pieces{"the", "-final", "-", "-countdown"}));
  EXPECT_EQ(cut(SplitBehavior::contiguous), (Pieces{"the", "-", "final", "--", "countdown"}));
}

TEST(PreTokenizers, InvertSwapsMatchesAndGaps) {
  EXPECT_EQ(pieces_of("a--b", make_literal_split("-", SplitBehavior::removed, true)), (Pieces{"-", "-"}));
  EXPECT_EQ(pieces_of("a-b", make_literal_split("-", SplitBehavior::merged_with_previous, true)),
            (Pieces{"a", "-b"}));
}

TEST(PreTokenizers, Classes) {
  EXPECT_EQ(pieces_of(" a\u00a0b\t", make_class_split(unicode::is_space, SplitBehavior::removed)),
            (Pieces{"a", "b"}));
  EXPECT_EQ(pieces_of("a12\u00bdb", make_class_split(unicode::is_number, SplitBehavior::isolated)),
            (Pieces{"a", "1", "2", "\u00bd", "b"}));
  EXPECT_EQ(pieces_of("a12\u00bdb", make_class_split(unicode::is_number, SplitBehavior::contiguous)),
            (Pieces{"a", "12\u00bd", "b"}));
  EXPECT_EQ(pieces_of("a$b\u3002", make_class_split(unicode::is_punctuation, SplitBehavior::isolated)),
            (Pieces{"a", "$", "b", "\u3002"}));
}

TEST(PreTokenizers, Whitespace) {
  EXPECT_EQ(pieces_of("Hey man!! caf\u00e9_1 \u00a0\u20ac5", make_whitespace()),
            (Pieces{"Hey", "man", "!!", "caf\u00e9_1", "\u20ac", "5"}));
}

TEST(PreTokenizers, Metaspace) {
  const auto cut = [](std::string_view text, PrependScheme scheme, bool split, bool at_start = true) {
    return pieces_of(text, make_metaspace(0x2581, scheme, split), at_start);
  };
  EXPECT_EQ(cut("Hey  you", PrependScheme::always, true), (Pieces{"\u2581Hey", "\u2581", "\u2581you"}));
  EXPECT_EQ(cut(" Hey", PrependScheme::always, true), (Pieces{"\u2581Hey"}));
  EXPECT_EQ(cut("Hey you", PrependScheme::never, true), (Pieces{"Hey", "\u2581you"}));
  EXPECT_EQ(cut("Hey you", PrependScheme::always, false), (Pieces{"\u2581Hey\u2581you"}));
  EXPECT_EQ(cut("Hey", PrependScheme::first, true), (Pieces{"\u2581Hey"}));
  EXPECT_EQ(cut("Hey", PrependScheme::first, true, /*at_start=*/false), (Pieces{"Hey"}));
  EXPECT_EQ(cut("\u2581Hey", PrependScheme::always, true), (Pieces{"\u2581Hey"}));
}

TEST(PreTokenizers, FirstPrependsOnlyWhereTheInputBegins) {
  const auto spaces = make_class_split(unicode::is_space, SplitBehavior::removed);
  const auto metaspace = make_metaspace(0x2581, PrependScheme::first, true);
  EXPECT_EQ(pieces_of_all("a b", {spaces.get(), metaspace.get()}), (Pieces{"\u2581a", "b"}));
  EXPECT_EQ(pieces_of_all(" a b", {spaces.get(), metaspace.get()}), (Pieces{"a", "b"}));
}

TEST(PreTokenizers, FixedLengthCountsCharacters) {
  EXPECT_EQ(pieces_of("h\u00e9llo wor", make_fixed_length(4)), (Pieces{"h\u00e9ll", "o wo", "r"}));
}

TEST(PreTokenizers, ByteLevel) {
  const auto prefix = make_prefix_space();
  const auto scanner = make_scanner_split(PatternScanner(PatternScanner::Kind::gpt2));
  const auto map = make_byte_map();
  EXPECT_EQ(pieces_of_all("Hello my\u00e9", {prefix.get(), scanner.get(), map.get()}),
            (Pieces{"\u0120Hello", "\u0120my\u00c3\u00a9"}));
  EXPECT_EQ(pieces_of_all(" a", {prefix.get()}), (Pieces{" a"}));
}

TEST(PreTokenizers, NoPieceIsEmpty) {
  EXPECT_EQ(pieces_of("", make_whitespace()), Pieces{});
  EXPECT_EQ(pieces_of("--", make_literal_split("-", SplitBehavior::removed, false)), Pieces{});
  EXPECT_EQ(pieces_of("", make_metaspace(0x2581, PrependScheme::always, true)), Pieces{});
}

}  // namespace
}  // namespace pare
