// The hand-written scanners against PCRE2 running the very same pattern.
#include <gtest/gtest.h>

#include "engine/tokenizer/pattern_scanner.h"
#include "engine/tokenizer/regex.h"
#include "tests/engine/tokenizer/tokenizer_fixtures.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

using Kind = PatternScanner::Kind;

std::vector<Piece> scan_all(const PatternScanner& scanner, std::string_view text, size_t batch) {
  std::vector<Piece> pieces, found(batch);
  for (size_t at = 0; at < text.size();) {
    const size_t count = scanner.scan(text, at, found);
    pieces.insert(pieces.end(), found.begin(), found.begin() + static_cast<std::ptrdiff_t>(count));
    at = found[count - 1].end;
  }
  return pieces;
}

class PatternScannerTest : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    const std::string pattern(PatternScanner::pattern_of(GetParam()));
    scanner_ = PatternScanner::recognise(pattern);
    ASSERT_TRUE(scanner_.has_value());
    EXPECT_EQ(scanner_->kind(), GetParam());
    auto compiled = Regex::compile(pattern, "p", "w");
    ASSERT_TRUE(compiled) << format_error(compiled.error());
    oracle_ = *compiled;
  }
  void expect_same(std::string_view text) {
    std::vector<Piece> expected;
    ASSERT_TRUE(oracle_->find_all(text, expected));
    const std::vector<Piece> got = scan_all(*scanner_, text, 7);
    if (got == expected) return;
    size_t i = 0;
    while (i < got.size() && i < expected.size() && got[i] == expected[i]) ++i;
    const auto show = [&](const std::vector<Piece>& pieces) {
      return i < pieces.size() ? Json(pieces[i].of(text)).dump() : std::string("nothing");
    };
    FAIL() << "piece " << i << ": scanner " << show(got) << ", PCRE2 " << show(expected) << " in "
           << Json(text.substr(0, 300)).dump();
  }
  std::optional<PatternScanner> scanner_;
  std::shared_ptr<const Regex> oracle_;
};

TEST_P(PatternScannerTest, AgreesOnAllCaseTexts) {
  PARE_SHARED_OR_SKIP(path, "tokenizer-cases/gpt2/cases.jsonl");
  for (const Json& row : read_json_lines(path)) expect_same(row.find("text")->as_string());
}

TEST_P(PatternScannerTest, AgreesOnRandomTexts) {
  for (uint64_t seed = 0; seed < 400; ++seed) expect_same(random_text(seed, 5 + seed % 120));
}

TEST_P(PatternScannerTest, AgreesOnAllShortTexts) {
  // Every string of up to four characters of one per class.
  const std::vector<std::string> alphabet = {"a",  "A", "s", "\u4e2d", "1",      " ",     "\t",
                                             "\n", "'", ".", "/",      "\u0301", "\u017f"};
  std::vector<std::string> texts = {""};
  for (int length = 0; length < 4; ++length) {
    std::vector<std::string> longer;
    for (const std::string& text : texts) {
      for (const std::string& character : alphabet) longer.push_back(text + character);
    }
    for (const std::string& text : longer) expect_same(text);
    if (HasFatalFailure()) return;
    texts.swap(longer);
  }
}

TEST_P(PatternScannerTest, CutsWhereAMatchBeginsAnyway) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    std::string text;
    for (uint64_t i = 0; i < 6; ++i) text += random_text(seed * 100 + i, 20) + " word's word ";
    const std::vector<Piece> whole = scan_all(*scanner_, text, 64);
    for (size_t wanted = 0; wanted < text.size(); wanted += 11) {
      const size_t cut = PatternScanner::safe_cut(text, wanted);
      std::vector<Piece> parts = scan_all(*scanner_, std::string_view(text).substr(0, cut), 64);
      for (Piece piece : scan_all(*scanner_, std::string_view(text).substr(cut), 64)) {
        parts.push_back({piece.begin + cut, piece.end + cut});
      }
      ASSERT_EQ(parts, whole) << seed << " cut at " << cut;
    }
  }
}

std::string kind_name(const testing::TestParamInfo<Kind>& info) {
  const char* const names[] = {"gpt2", "llama3", "qwen2", "gpt4o"};
  return names[static_cast<int>(info.param)];
}
INSTANTIATE_TEST_SUITE_P(Kinds, PatternScannerTest,
                         testing::Values(Kind::gpt2, Kind::llama3, Kind::qwen2, Kind::gpt4o), kind_name);

TEST(PatternScanner, RecognisesExactTextOnly) {
  const std::string pattern(PatternScanner::pattern_of(Kind::gpt2));
  EXPECT_TRUE(PatternScanner::recognise(pattern));
  EXPECT_FALSE(PatternScanner::recognise(pattern + " "));
  EXPECT_FALSE(PatternScanner::recognise(""));
}

}  // namespace
}  // namespace pare::test
