// formats/directory_sink.h: a folder of safetensors as a WeightSink; internal to formats.
#pragma once

#include <memory>
#include <string>

#include "formats/create_model.h"

namespace pare {

Result<std::unique_ptr<WeightSink>> create_directory(const std::string& path, const CreateOptions& options);

}  // namespace pare
