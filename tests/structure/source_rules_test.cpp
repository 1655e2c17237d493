// Rules about sources that a compiler does not check: files are created in one place only, banned functions,
// length.
#include <gtest/gtest.h>

#include <regex>

#include "tests/structure/source_files.h"

namespace pare::test {
namespace {

// Code without line comments and string literals, so that words in them do not count.
std::string code_of(const std::string& line) {
  std::string out;
  bool in_string = false;
  for (size_t i = 0; i < line.size(); ++i) {
    if (!in_string && line.compare(i, 2, "//") == 0) break;
    if (!in_string && line.compare(i, 2, "/*") == 0) {
      const size_t end = line.find("*/", i + 2);
      if (end == std::string::npos) break;
      i = end + 1;
      continue;
    }
    if (line[i] == '"' && (i == 0 || line[i - 1] != '\\')) in_string = !in_string;
    if (!in_string) out += line[i];
  }
  return out;
}

void expect_nowhere(const std::regex& pattern, const std::vector<std::string>& except) {
  for (const SourceFile& file : product_sources()) {
    bool is_exempt = false;
    for (const std::string& prefix : except) is_exempt = is_exempt || file.path.starts_with(prefix);
    if (is_exempt) continue;
    for (size_t i = 0; i < file.lines.size(); ++i) {
      EXPECT_FALSE(std::regex_search(code_of(file.lines[i]), pattern))
          << file.path << ":" << i + 1 << ": " << file.lines[i];
    }
  }
}

TEST(SourceRules, FilesAreCreatedInCoreOnly) {
  expect_nowhere(std::regex(R"(\b(fopen|ofstream|fstream|O_CREAT|creat|renameat2?)\b|(^|[^.\w>])rename\()"),
                 {"engine/core/"});
}

TEST(SourceRules, BannedFunctions) {
  expect_nowhere(
      std::regex(
          R"(\bstd::regex\b|\brand\(|random_device|mkstemp|\bsystem\(|\bpopen\(|\bgets\(|strcpy|\bsprintf|setlocale|\batoi\b|\bstrtod\b|\bstoi\b|\bsscanf\b)"),
      {});
}

TEST(SourceRules, LibrariesNeitherPrintNorExit) {
  expect_nowhere(std::regex(R"(std::cout|std::cerr|\bprintf\(|\bputs\(|\bexit\(|\babort\()"),
                 {"cli/", "engine/core/"});
}

TEST(SourceRules, NoOpenMp) {
  expect_nowhere(std::regex(R"(#pragma omp)"), {});
}

TEST(SourceRules, FilesStayShort) {
  for (const SourceFile& file : product_sources())
    EXPECT_LT(file.lines.size(), 600u) << file.path << ": look for the seam";
}

}  // namespace
}  // namespace pare::test
