// formats/verify.h: `pare verify`: structure, checksums, finite scales, codes in range. Never stops at the
// first fault.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/core/result.h"

namespace pare {

struct VerifyReport {
  std::string format;  // "pare", "safetensors", "gguf"
  int64_t tensors = 0;
  uint64_t bytes = 0;          // of all files looked at
  bool has_checksums = false;  // false: structure only, reported as "unchecked"
  std::vector<std::string>
      notes;  // optional sections that were skipped, text files edited since they were written
  std::vector<Error> faults;  // one per tensor, part or file at fault; the first one decides the exit code
};

// Checks a .pare file, a .safetensors file, a .gguf file (all parts of a split one) or a folder. A file too damaged to be looked into is a report with
// one fault; the Result is an error only when there is nothing to look at (missing, unreadable, a format that
// pare does not read).
Result<VerifyReport> verify_model(const std::string& path);

}  // namespace pare
