// Who may include whom (docs/architecture.md). Linking enforces it for sources; this test does for headers.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/structure/source_files.h"

namespace pare::test {
namespace {

const std::map<std::string, std::set<std::string>>& allowed() {
  static const std::set<std::string> engine = {"engine/core", "engine/tensor", "engine/tokenizer",
                                               "engine/models", "engine/run"};
  static const auto with = [](std::set<std::string> base, std::initializer_list<std::string> more) {
    base.insert(more);
    return base;
  };
  static const std::map<std::string, std::set<std::string>> rules = {
      {"engine/core", {}},
      {"engine/tensor", {"engine/core"}},
      {"engine/backends", {"engine/core", "engine/tensor"}},
      {"engine/tokenizer", {"engine/core"}},
      {"engine/models", {"engine/core", "engine/tensor"}},
      {"engine/run", {"engine/core", "engine/tensor", "engine/models", "engine/tokenizer"}},
      {"formats", engine},
      {"calibrate", engine},
      {"prune", with(engine, {"calibrate"})},
      {"quantize", with(engine, {"calibrate"})},
      {"distill", with(engine, {"calibrate"})},
      {"evaluate", engine},
      {"cli",
       with(engine, {"engine/backends", "formats", "calibrate", "prune", "quantize", "distill", "evaluate"})},
  };
  return rules;
}

TEST(IncludeDirection, EveryIncludePointsDown) {
  int checked = 0;
  for (const SourceFile& file : product_sources()) {
    const std::string folder = folder_of(file.path);
    ASSERT_TRUE(allowed().contains(folder)) << file.path << " lies in a folder without a rule";
    for (const std::string& line : file.lines) {
      if (!line.starts_with("#include \"")) continue;
      const std::string target = line.substr(10, line.find('"', 10) - 10);
      const std::string other = folder_of(target);
      if (!allowed().contains(other)) continue;  // a header of a library
      ++checked;
      EXPECT_TRUE(other == folder || allowed().at(folder).contains(other))
          << file.path << " includes " << target;
    }
  }
  EXPECT_GT(checked, 200);
}

TEST(IncludeDirection, OnlyTheCudaFolderSeesCudaHeaders) {
  for (const SourceFile& file : product_sources()) {
    if (file.path.starts_with("engine/backends/cuda/")) continue;
    for (const std::string& line : file.lines) {
      EXPECT_FALSE(line.starts_with("#include <cuda") || line.starts_with("#include <cublas"))
          << file.path << ": " << line;
    }
  }
}

TEST(IncludeDirection, HeavyHeadersStayInSources) {
  for (const SourceFile& file : product_sources()) {
    if (!file.path.ends_with(".h")) continue;
    for (const std::string& line : file.lines) {
      EXPECT_FALSE(line.starts_with("#include <nlohmann") || line.starts_with("#include <Eigen") ||
                   line.starts_with("#include <CLI"))
          << file.path << ": " << line;
    }
  }
}

}  // namespace
}  // namespace pare::test
