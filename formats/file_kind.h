// formats/file_kind.h: what a file is by its first bytes, never by its suffix; internal to formats.
#pragma once

#include <string>

#include "engine/core/file.h"
#include "engine/core/result.h"

namespace pare {

enum class FileKind {
  unknown,
  pare,
  safetensors,
  gguf,
  refused,  // recognised, and never read: see DetectedFile::refusal
};

struct DetectedFile {
  FileKind kind = FileKind::unknown;
  Error refusal;  // of refused files: what it is and what to do (RF01 to RF07)
};

// Looks at the first and last bytes. Errors: 5 on read errors.
Result<DetectedFile> detect_file(const InputFile& file);

// The refusal of a file that is recognised as a format that pare does not read; success for everything else,
// so that the reader of the expected format names what is wrong.
Status refuse_other_formats(const InputFile& file);

}  // namespace pare
