// formats/gguf/source.h: a GGUF file, or the parts of a split one, as a WeightSource; internal to formats.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/core/file.h"
#include "engine/models/weight_source.h"
#include "formats/gguf/file.h"

namespace pare {

// The file and, when its name says NAME-00001-of-00003.gguf, the other parts beside it. Rules GG34 and those
// of GgufFile::open.
Result<std::vector<std::shared_ptr<const GgufFile>>> open_gguf_parts(const std::string& path,
                                                                     InputFile input);

// A model of a family that pare runs, with checkpoint names, checkpoint values and a config.json.
Result<std::shared_ptr<const WeightSource>> open_gguf(const std::string& path, InputFile input,
                                                      bool verify_checksums);

}  // namespace pare
