// formats/directory_source.h: a Hugging Face folder as a WeightSource; internal to formats.
#pragma once

#include <memory>
#include <string>

#include "engine/core/file.h"
#include "formats/open_model.h"

namespace pare {

// `shown_path` is what the user typed; `folder` where it was found.
Result<std::shared_ptr<const WeightSource>> open_directory(const std::string& shown_path,
                                                           const std::string& folder,
                                                           const OpenOptions& options);

// A single .safetensors file with the config.json beside it.
Result<std::shared_ptr<const WeightSource>> open_single_file(const std::string& path, InputFile input,
                                                             const OpenOptions& options);

// Hash of a whole file, page by page; for manifests.
Result<Json> hash_file(const InputFile& file, const std::string& name);

}  // namespace pare
