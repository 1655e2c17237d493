// tests/structure/source_files.h: the sources of the project, for tests that read code.
#pragma once

#include <string>
#include <vector>

namespace pare::test {

struct SourceFile {
  std::string path;  // relative to the project, "quantize/grid.h"
  std::vector<std::string> lines;
};

// All .h, .cpp, .cu and .cuh files of the product folders (tests and bench excluded), sorted.
const std::vector<SourceFile>& product_sources();

// Folder that the rules of docs/architecture.md speak of: "engine/core", "formats", ...
std::string folder_of(const std::string& path);

}  // namespace pare::test
