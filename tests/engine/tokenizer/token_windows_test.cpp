#include "engine/tokenizer/token_windows.h"

#include <gtest/gtest.h>

#include "engine/core/file.h"
#include "engine/core/parallel.h"
#include "tests/engine/tokenizer/tokenizer_fixtures.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

// Bytes as tokens, 256 = <s> put in front, 257 = </s>.
std::shared_ptr<const Tokenizer> byte_tokenizer() {
  auto loaded = load_text(
      byte_level_json(
          {}, {},
          R"("added_tokens":[{"id":256,"content":"<s>","special":true},{"id":257,"content":"</s>","special":true}],)"
          R"("post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},)"
          R"({"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[256],"tokens":["<s>"]}}})"),
      R"({"bos_token":"<s>","eos_token":{"content":"</s>"}})");
  EXPECT_TRUE(loaded) << (loaded ? "" : format_error(loaded.error()));
  return loaded ? *loaded : nullptr;
}
using Ids = std::vector<int32_t>;

TEST(TokenStream, DocumentsAreFramedAndSeparated) {
  const auto tokenizer = byte_tokenizer();
  const std::string_view documents[] = {"ab", "c"};
  const auto ids = [&](const StreamOptions& options) {
    auto stream = encode_documents(*tokenizer, documents, options);
    EXPECT_TRUE(stream);
    return stream->ids;
  };
  EXPECT_EQ(ids({}), (Ids{256, 'a', 'b', 257, 256, 'c'}));
  EXPECT_EQ(ids({.separate_documents = false}), (Ids{256, 'a', 'b', 256, 'c'}));
  EXPECT_EQ(ids({.bos = BosPolicy::never}), (Ids{'a', 'b', 257, 'c'}));
  EXPECT_EQ(ids({.bos = BosPolicy::once}), (Ids{256, 'a', 'b', 257, 'c'}));
  EXPECT_EQ(ids({.bos = BosPolicy::always}), (Ids{256, 'a', 'b', 257, 256, 'c'}));
}

TEST(TokenStream, KnowsWhereItsDocumentsBegin) {
  const auto tokenizer = byte_tokenizer();
  const std::string_view documents[] = {"ab", "", "c"};
  const auto stream = encode_documents(*tokenizer, documents, {.bos = BosPolicy::never});
  ASSERT_TRUE(stream);
  EXPECT_EQ(stream->ids, (Ids{'a', 'b', 257, 'c'}));
  EXPECT_EQ(stream->document_starts, (std::vector<int64_t>{0, 3, 3}));
}

TEST(TokenStream, ADoubledBosIsRemovedAndCounted) {
  const auto tokenizer = byte_tokenizer();
  const std::string_view documents[] = {"<s>a", "b"};
  int64_t doubled = -1;
  const auto stream = encode_documents(*tokenizer, documents, {.parse_special = true}, &doubled);
  ASSERT_TRUE(stream);
  EXPECT_EQ(stream->ids, (Ids{256, 'a', 257, 256, 'b'}));
  EXPECT_EQ(doubled, 1);
}

TEST(TokenStream, SpecialTokensInTextAreTextUnlessAsked) {
  const auto stream = encode_document(*byte_tokenizer(), "<s>", {.bos = BosPolicy::never});
  ASSERT_TRUE(stream);
  EXPECT_EQ(stream->ids, (Ids{'<', 's', '>'}));
}

TEST(TokenStream, TokenHashIsSha256OfLittleEndianWords) {
  // printf '\x01\0\0\0\x00\x01\0\0' | sha256sum
  EXPECT_EQ(token_hash(Ids{1, 256}), "242045e2f1bb37769b514f182fd91b3d215324cb57f187cced1e9c62921dbac3");
  EXPECT_EQ(token_hash(Ids{}), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  const auto stream = encode_document(*byte_tokenizer(), "ab");
  ASSERT_TRUE(stream);
  EXPECT_EQ(stream->token_hash, token_hash(stream->ids));
}

TEST(TokenStream, TheTextHashTellsDocumentsApart) {
  const auto tokenizer = byte_tokenizer();
  const std::string_view one[] = {"ab", "c"}, other[] = {"a", "bc"};
  EXPECT_NE(encode_documents(*tokenizer, one)->text_hash, encode_documents(*tokenizer, other)->text_hash);
}

TEST(TokenStream, FilesAndErrors) {
  const auto tokenizer = byte_tokenizer();
  const std::string folder = temporary_folder();
  const auto write = [&](const std::string& name, std::string_view text) {
    auto writer = FileWriter::create(folder + "/" + name, {});
    EXPECT_TRUE(writer && writer->write(text) && writer->publish());
    return folder + "/" + name;
  };
  const auto stream = encode_file(*tokenizer,
                                  write("bom.txt",
                                        "\xEF\xBB\xBF"
                                        "a"),
                                  {.bos = BosPolicy::never});
  ASSERT_TRUE(stream);
  EXPECT_EQ(stream->ids, (Ids{'a'}));
  const auto bad = encode_file(*tokenizer, write("bad.txt", "a\xFF"));
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().path, folder + "/bad.txt");
  EXPECT_EQ(bad.error().exit, Exit::malformed);
  const std::string_view documents[] = {"a", "\xFF", "\xFE"};
  const auto second = encode_documents(*tokenizer, documents);
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().where.find("document 2"), std::string::npos);
}

TEST(TokenStream, TheNumberOfThreadsMakesNoDifference) {
  std::string text;
  for (uint64_t i = 0; i < 300; ++i) text += random_text(i, 3000) + " the word's end and so on ";
  ASSERT_GT(text.size(), 1'500'000u);  // enough to be cut
  for (const std::string folder : {"tokenizer-cases/gpt2", "tokenizer-cases/qwen2", "tokenizer-cases/bert"}) {
    PARE_SHARED_OR_SKIP(path, folder);
    const auto tokenizer = load_shared(folder);
    ASSERT_NE(tokenizer, nullptr);
    set_thread_count(1);
    const Ids alone = encode(*tokenizer, text);
    set_thread_count(3);
    const Ids together = encode(*tokenizer, text);
    set_thread_count(0);
    EXPECT_EQ(alone, together) << folder;
    if (folder == "tokenizer-cases/gpt2") {
      EXPECT_EQ(tokenizer->decode(together, false), text);
    }
  }
}

TEST(TokenWindows, Disjoint) {
  const auto windows = disjoint_windows(10, 3);
  ASSERT_EQ(windows.size(), 3u);
  EXPECT_EQ(windows[2].begin, 6);
  EXPECT_EQ(disjoint_windows(10, 3, 2).size(), 2u);
  EXPECT_TRUE(disjoint_windows(2, 3).empty());
  EXPECT_TRUE(disjoint_windows(2, 0).empty());
}

TEST(TokenWindows, RandomOnesDependOnSeedAndIndexOnly) {
  const auto many = random_windows(1000, 10, 64, 5), few = random_windows(1000, 10, 8, 5);
  ASSERT_EQ(many.size(), 64u);
  for (size_t i = 0; i < few.size(); ++i) EXPECT_EQ(few[i].begin, many[i].begin);
  bool differs = false;
  const auto other = random_windows(1000, 10, 64, 6);
  for (size_t i = 0; i < many.size(); ++i) {
    EXPECT_GE(many[i].begin, 0);
    EXPECT_LE(many[i].begin + many[i].length, 1000);
    differs = differs || many[i].begin != other[i].begin;
  }
  EXPECT_TRUE(differs);
  EXPECT_EQ(random_windows(10, 10, 3, 5).size(), 3u);  // one place only
  EXPECT_TRUE(random_windows(9, 10, 3, 5).empty());
}

TEST(TokenWindows, BosTakesTheFirstPlace) {
  TokenStream stream;
  stream.ids = {1, 2, 3, 4, 5};
  EXPECT_EQ(window_ids(stream, {1, 3}), (Ids{2, 3, 4}));
  EXPECT_EQ(window_ids(stream, {1, 3}, 9), (Ids{9, 2, 3}));
}

}  // namespace
}  // namespace pare::test
