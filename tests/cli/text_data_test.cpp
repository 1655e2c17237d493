// Rows DT of docs/bad-input.md.
#include "cli/text_data.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/support/shared_data.h"

namespace pare::cli {
namespace {

std::string file_with(const std::string& content, const std::string& name = "data.txt") {
  const std::string path = test::temporary_folder() + "/" + name;
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

void expect_error(const std::string& path, Exit exit, const std::string& rule,
                  const std::string& where = {}) {
  const auto data = read_text_data(path);
  ASSERT_FALSE(data.has_value()) << path;
  EXPECT_EQ(data.error().exit, exit) << format_error(data.error());
  EXPECT_EQ(data.error().rule, rule) << format_error(data.error());
  if (!where.empty()) {
    EXPECT_EQ(data.error().where, where) << format_error(data.error());
  }
}

TEST(TextData, PlainText) {
  const auto data = read_text_data(file_with("One line.\nAnother.\n"));
  ASSERT_TRUE(data.has_value());
  EXPECT_EQ(data->documents, (std::vector<std::string>{"One line.\nAnother.\n"}));
}

TEST(TextData, DT06ByteOrderMarkCrLfAndMissingNewline) {
  EXPECT_EQ(read_text_data(file_with("\xef\xbb\xbfHi"))->documents[0], "Hi");
  EXPECT_EQ(read_text_data(file_with("{\"text\": \"a\"}\r\n{\"text\": \"b\"}", "x.jsonl"))->documents,
            (std::vector<std::string>{"a", "b"}));
}

TEST(TextData, DT01Empty) {
  expect_error(file_with(""), Exit::malformed, "DT01");
  expect_error(file_with("\n \n\t\n"), Exit::malformed, "DT01");
  expect_error(file_with("\n\n", "x.jsonl"), Exit::malformed, "DT01");
}

TEST(TextData, DT02And03NameTheLine) {
  expect_error(file_with("{\"text\": \"a\"}\n{\"text\": \n", "x.jsonl"), Exit::malformed, "DT02");
  expect_error(file_with("{\"text\": \"a\"}\n{\"body\": \"b\"}\n", "x.jsonl"), Exit::malformed, "DT03",
               "2:text");
  expect_error(file_with("{\"text\": 3}\n", "x.jsonl"), Exit::malformed, "DT03", "1:text");
}

TEST(TextData, DT04EncodingNamesTheByte) {
  expect_error(file_with("good\nba\xff"
                         "d\n"),
               Exit::malformed, "DT04", "2:3");
  expect_error(file_with(std::string("nul\0here", 8)), Exit::malformed, "DT04", "1:4");
  expect_error(file_with("\xed\xa0\x80"), Exit::malformed, "DT04", "1:1");  // a surrogate
  expect_error(file_with("{\"text\": \"a\\u0000b\"}\n", "x.jsonl"), Exit::malformed, "DT04", "1:text");
}

TEST(TextData, DT08CompressedFilesAreNamed) {
  expect_error(file_with("\x1f\x8b\x08rest"), Exit::unsupported, "DT08");
  expect_error(file_with("PK\x03\x04rest"), Exit::unsupported, "DT08");
  expect_error(file_with("PAR1rest"), Exit::unsupported, "DT08");
}

TEST(TextData, DT11And12DepthAndDuplicates) {
  expect_error(file_with(std::string(100, '[') + "\n", "x.jsonl"), Exit::malformed, "DT02");
  expect_error(file_with("{\"text\": \"a\", \"text\": \"b\"}\n", "x.jsonl"), Exit::malformed, "DT02");
}

TEST(TextData, UnkMarkerIsSeen) {
  EXPECT_TRUE(read_text_data(file_with("a <unk> b"))->has_unk_marker);
  EXPECT_FALSE(read_text_data(file_with("a unk b"))->has_unk_marker);
}

}  // namespace
}  // namespace pare::cli
