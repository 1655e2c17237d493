#include "engine/tokenizer/decoders.h"

#include <gtest/gtest.h>

namespace pare {
namespace {

template <typename... Steps>
std::string decode(const std::vector<std::string>& tokens, Steps... steps) {
  DecoderChain chain;
  (chain.add(std::move(steps)), ...);
  DecodeRun run(chain);
  std::string out;
  for (const std::string& token : tokens) run.push(token, out);
  run.finish(out);
  return out;
}
ReplaceRule literal(std::string from, std::string to) {
  return {std::move(from), nullptr, std::move(to)};
}

TEST(Decoders, ByteLevelKeepsForeignTokens) {
  EXPECT_EQ(decode({"\u0120a", "\u00c3", "\u00a9"}, make_byte_level_decoder()), " a\u00e9");
  EXPECT_EQ(decode({"<s b>", "\u0120a"}, make_byte_level_decoder()),
            "<s b> a");  // a space is not in the table
}

TEST(Decoders, LlamaChain) {
  const auto chain = [](const std::vector<std::string>& tokens) {
    return decode(tokens, make_replace_decoder(literal("\u2581", " ")), make_byte_fallback_decoder(),
                  make_fuse_decoder(), make_strip_decoder(' ', 1, 0));
  };
  EXPECT_EQ(chain({"\u2581Hey", "\u2581you"}), "Hey you");
  EXPECT_EQ(chain({"\u2581\u2581a"}), " a");
  EXPECT_EQ(chain({"\u2581", "\u2581", "a"}), " a");  // once for the whole text, not once per token
  EXPECT_EQ(chain({"<0xE4>", "<0xB8>", "<0xAD>", "a"}), "\u4e2da");
  EXPECT_EQ(chain({"<0xE4>", "<0xB8>", "a"}), "\uFFFD\uFFFDa");
  EXPECT_EQ(chain({"<0x41>", "<0xFF>"}), "\uFFFD\uFFFD");  // a run is good as a whole or not at all
  EXPECT_EQ(chain({}), "");
}

TEST(Decoders, StripBothEndsOfEachToken) {
  EXPECT_EQ(decode({"HHHey", "HelloHHH"}, make_strip_decoder('H', 1, 1)), "HHeyelloHH");
  EXPECT_EQ(decode({"HH", "aHH"}, make_strip_decoder('H', 1, 5)), "a");
}

TEST(Decoders, Metaspace) {
  EXPECT_EQ(decode({"\u2581Hey", "\u2581my", "s"}, make_metaspace_decoder(0x2581, true)), "Hey mys");
  EXPECT_EQ(decode({"\u2581Hey"}, make_metaspace_decoder(0x2581, false)), " Hey");
}

TEST(Decoders, WordPiece) {
  EXPECT_EQ(decode({"##uelo", "Ara", "##új", "##o", "No", "##guera"}, make_wordpiece_decoder("##", false)),
            "##uelo Araújo Noguera");
  EXPECT_EQ(decode({"do", "n't", ".", "!"}, make_wordpiece_decoder("##", true)), "don't.!");
}

TEST(Decoders, BpeSuffixIsASpaceExceptAtTheEnd) {
  EXPECT_EQ(decode({"he", "llo</w>", "you</w>"}, make_bpe_decoder("</w>")), "hello you");
  EXPECT_EQ(decode({}, make_bpe_decoder("</w>")), "");
}

TEST(Decoders, Ctc) {
  const std::vector<std::string> tokens = {"<pad>", "h",     "h", "e", "<pad>", "l",
                                           "l",     "<pad>", "l", "o", "|",     "o"};
  EXPECT_EQ(decode(tokens, make_ctc_decoder("<pad>", "|", true)), "hello o");
}

TEST(Decoders, WithoutADecoderTokensAreJoinedBySpaces) {
  EXPECT_EQ(decode({"a", "b"}, make_space_join_decoder()), "a b");
}

TEST(Decoders, WhatFollowsFuseSeesOneToken) {
  EXPECT_EQ(decode({"a", "b", "ab"}, make_fuse_decoder(), make_replace_decoder(literal("ab", "x"))), "xx");
  EXPECT_EQ(decode({"a", "b"}, make_fuse_decoder(), make_space_join_decoder()), "ab");
}

}  // namespace
}  // namespace pare
