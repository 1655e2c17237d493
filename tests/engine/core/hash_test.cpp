#include "engine/core/hash.h"

#include <gtest/gtest.h>

#include <vector>

namespace pare {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Deterministic text of any length.
std::string sample(size_t length) {
  std::string text;
  for (size_t i = 0; i < length; ++i) text += static_cast<char>(i * 131 % 251);
  return text;
}

TEST(Hash128, PublishedValues) {
  // xxhsum -H128 of the empty input; the sanity table of the xxHash distribution agrees.
  EXPECT_EQ(xxh3_128("").hex(), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(xxh3_128("a").hex(), "a96faf705af16834e6c632b61e964e1f");
  EXPECT_EQ(xxh3_128("abc").hex(), "06b05ab6733a618578af5f94892f3950");
}

TEST(Hash128, CanonicalAndHexRoundTrip) {
  const Hash128 hash = xxh3_128("pare");
  EXPECT_EQ(Hash128::from_canonical(hash.canonical()), hash);
  EXPECT_EQ(Hash128::from_hex(hash.hex()), hash);
  EXPECT_EQ(static_cast<unsigned>(hash.canonical()[0]), hash.high >> 56);
  const std::string good = hash.hex();
  EXPECT_EQ(Hash128::from_hex(good.substr(1)), std::nullopt);
  EXPECT_EQ(Hash128::from_hex(std::string("G").append(good, 1)), std::nullopt);
  EXPECT_EQ(Hash128::from_hex(std::string("A9").append(good, 2)), std::nullopt);
}

TEST(Hash128, StreamEqualsOneShotForEveryCut) {
  for (const size_t length : {0u, 1u, 16u, 17u, 128u, 129u, 240u, 241u, 1023u, 1024u, 1025u, 5000u}) {
    const std::string text = sample(length);
    for (const size_t piece : {1u, 7u, 64u, 255u, 1024u}) {
      Xxh3Stream stream;
      for (size_t at = 0; at < length; at += piece)
        stream.update(bytes_of(std::string_view(text).substr(at, piece)));
      EXPECT_EQ(stream.digest(), xxh3_128(text)) << length << " in pieces of " << piece;
    }
  }
}

std::string sha256(std::string_view text) {
  Sha256 hash;
  hash.update(bytes_of(text));
  return hash.hex();
}

// FIPS 180-4 examples and NIST CAVP short messages.
TEST(Sha256, PublishedValues) {
  EXPECT_EQ(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(
      sha256(
          "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrs"
          "mnopqrstnopqrstu"),
      "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
  EXPECT_EQ(sha256("\xbd"), "68325720aabd7c82f30f554b313d0570c95accbb7dc4b5aae11204c08ffe732b");
  EXPECT_EQ(sha256(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, PiecesDoNotMatter) {
  for (size_t length = 0; length < 200; ++length) {
    const std::string text = sample(length);
    Sha256 hash;
    for (size_t at = 0; at < length; at += 13) hash.update(bytes_of(std::string_view(text).substr(at, 13)));
    EXPECT_EQ(hash.hex(), sha256(text)) << length;
  }
}

}  // namespace
}  // namespace pare
