// tests/engine/core/scratch.h: small helpers for tests of the file classes.
#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include "engine/core/file.h"
#include "tests/support/shared_data.h"

namespace pare::test {

inline std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline void spill(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

// All names in a folder, temporaries included.
inline std::set<std::string> names_in(const std::string& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.insert(entry.path().filename().string());
  return names;
}

// A fault hook for the life of a scope.
class FaultScope {
 public:
  explicit FaultScope(IoFault fault) { set_io_fault(std::move(fault)); }
  ~FaultScope() { set_io_fault({}); }
};

}  // namespace pare::test
