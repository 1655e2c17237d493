// tests/fuzz/one_file.h: fuzzed bytes as a file that exists only in memory, so that a target runs the whole
// path from open to load.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "engine/core/file.h"

namespace pare::fuzz {

class OneFile {
 public:
  OneFile(const uint8_t* data, size_t size);
  ~OneFile();
  OneFile(const OneFile&) = delete;
  OneFile& operator=(const OneFile&) = delete;

  Result<InputFile> open() const { return InputFile::open(path_, "fuzzed"); }

 private:
  int descriptor_ = -1;
  std::string path_;
};

}  // namespace pare::fuzz
