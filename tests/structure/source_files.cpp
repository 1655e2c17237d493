#include "tests/structure/source_files.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

std::vector<std::string> lines_of(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::vector<SourceFile> read_all() {
  std::vector<SourceFile> files;
  const std::filesystem::path root = source_path("");
  for (const char* folder :
       {"engine", "formats", "calibrate", "prune", "quantize", "distill", "evaluate", "cli"}) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root / folder)) {
      const std::string extension = entry.path().extension();
      if (extension != ".h" && extension != ".cpp" && extension != ".cu" && extension != ".cuh") continue;
      files.push_back({std::filesystem::relative(entry.path(), root).string(), lines_of(entry.path())});
    }
  }
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.path < b.path; });
  return files;
}

}  // namespace

const std::vector<SourceFile>& product_sources() {
  static const std::vector<SourceFile> files = read_all();
  return files;
}

std::string folder_of(const std::string& path) {
  const size_t first = path.find('/');
  if (path.substr(0, first) != "engine") return path.substr(0, first);
  return path.substr(0, path.find('/', first + 1));
}

}  // namespace pare::test
