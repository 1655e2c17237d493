#include "distill/token_cache.h"

#include <gtest/gtest.h>

#include <cstring>

#include "engine/core/random.h"
#include "tests/support/shared_data.h"

namespace pare {
namespace {

TokenCacheKey key() {
  return {.text = xxh3_128("the text"), .tokenizer = xxh3_128("the tokenizer"), .rules = rules_of({})};
}

TokenStream stream_of(int64_t tokens, uint64_t vocabulary) {
  const Random random(3, RandomPurpose::test_data);
  TokenStream stream;
  for (int64_t i = 0; i < tokens; ++i) stream.ids.push_back(int32_t(random.below(vocabulary, uint64_t(i))));
  stream.documents = 3;
  stream.document_starts = {0, tokens / 2, tokens};
  stream.token_hash = token_hash(stream.ids);
  stream.text_hash = std::string(64, 'a');
  return stream;
}

void expect_same(const TokenStream& got, const TokenStream& expected) {
  EXPECT_EQ(got.ids, expected.ids);
  EXPECT_EQ(got.document_starts, expected.document_starts);
  EXPECT_EQ(got.documents, expected.documents);
  EXPECT_EQ(got.token_hash, expected.token_hash);
  EXPECT_EQ(got.text_hash, expected.text_hash);
}

std::string written(const TokenStream& stream) {
  const std::string path = token_cache_path(test::temporary_folder(), key());
  const Status status = write_token_cache(path, key(), stream);
  EXPECT_TRUE(status) << format_error(status.error());
  return path;
}

std::string bytes_of_file(const std::string& path) {
  return *read_text_file(path, 1 << 20);
}

// A file of these bytes, in memory: there are thousands of them.
std::string file_of(std::string_view bytes, std::string path = {}) {
  static const std::string folder = test::memory_folder();
  if (path.empty()) path = folder + "/changed.tokens";
  auto writer = FileWriter::create(path, {.force = true});
  EXPECT_TRUE(writer && writer->write(bytes) && writer->publish());
  return path;
}

TEST(TokenCache, GivesBackWhatWasWritten) {
  for (const uint64_t vocabulary : {256u, 65'536u, 65'537u, 200'000u})
    for (const int64_t tokens : {0, 1, 3, 1000}) {
      TokenStream stream = stream_of(tokens, vocabulary);
      if (tokens > 0) stream.ids.back() = int32_t(vocabulary - 1);
      const auto read = read_token_cache(written(stream), key());
      ASSERT_TRUE(read) << format_error(read.error());
      expect_same(*read, stream);
    }
}

TEST(TokenCache, SmallIdsTakeTwoBytes) {
  EXPECT_EQ(bytes_of_file(written(stream_of(10'000, 200'000))).size() -
                bytes_of_file(written(stream_of(10'000, 65'536))).size(),
            20'000u);
}

TEST(TokenCache, RefusesWhatWasMadeFromSomethingElse) {
  const std::string path = written(stream_of(100, 300));
  const auto field = [&](const TokenCacheKey& other) {
    const auto read = read_token_cache(path, other);
    EXPECT_FALSE(read);
    EXPECT_EQ(read.error().exit, Exit::locked);
    EXPECT_EQ(read.error().rule, "TC05");
    EXPECT_NE(read.error().got, read.error().limit);
    return read.error().where;
  };
  TokenCacheKey other = key();
  other.text = xxh3_128("another text");
  EXPECT_EQ(field(other), "text");
  other = key();
  other.tokenizer = xxh3_128("another tokenizer");
  EXPECT_EQ(field(other), "tokenizer");
  other = key();
  other.rules = rules_of({.bos = BosPolicy::never});
  EXPECT_EQ(field(other), "rules");
  EXPECT_NE(other.hash(), key().hash());
}

TEST(TokenCache, NoPrefixAndNoFlippedBitIsAccepted) {
  const std::string whole = bytes_of_file(written(stream_of(40, 300)));
  for (size_t length = 0; length < whole.size(); ++length) {
    const auto read = read_token_cache(file_of(whole.substr(0, length)), key());
    ASSERT_FALSE(read) << length;
    ASSERT_EQ(read.error().exit, Exit::malformed) << length;
    ASSERT_FALSE(read.error().rule.empty()) << length;
  }
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string changed = whole;
    changed[i] = char(changed[i] ^ 1 << (i % 8));
    const auto read = read_token_cache(file_of(changed), key());
    ASSERT_FALSE(read) << i;
    ASSERT_FALSE(read.error().rule.empty()) << i;
  }
  const auto longer = read_token_cache(file_of(whole + "x"), key());
  ASSERT_FALSE(longer);
  EXPECT_EQ(longer.error().where, "file size");
}

TEST(TokenCache, IsMadeOnceAndAgainOnlyWhenAsked) {
  const std::string folder = test::temporary_folder();
  const TokenStream stream = stream_of(50, 300);
  int made = 0;
  const auto make = [&]() -> Result<TokenStream> {
    ++made;
    return stream;
  };
  for (int i = 0; i < 2; ++i) expect_same(*cached_tokens(folder, key(), OnBadCache::refuse, make), stream);
  EXPECT_EQ(made, 1);

  const std::string path = token_cache_path(folder, key());
  std::string damaged = bytes_of_file(path);
  damaged.back() ^= 1;
  file_of(damaged, path);
  const auto refused = cached_tokens(folder, key(), OnBadCache::refuse, make);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().rule, "TC02");
  EXPECT_EQ(made, 1);
  expect_same(*cached_tokens(folder, key(), OnBadCache::remake, make), stream);
  EXPECT_EQ(made, 2);
  expect_same(*cached_tokens(folder, key(), OnBadCache::refuse, make), stream);
  EXPECT_EQ(made, 2);

  TokenCacheKey other = key();
  other.text = xxh3_128("more text");
  const auto failed = cached_tokens(folder, other, OnBadCache::refuse, []() -> Result<TokenStream> {
    return Error{.exit = Exit::malformed, .rule = "DT04", .path = "text"};
  });
  ASSERT_FALSE(failed);
  EXPECT_FALSE(path_exists(token_cache_path(folder, other)));
}

}  // namespace
}  // namespace pare
