// formats/directory_sink.h: a folder of safetensors as a WeightSink; internal to formats.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "formats/create_model.h"

namespace pare {

// `check` is called with the complete folder, still under its temporary name; its error stops the output.
Result<std::unique_ptr<WeightSink>> create_directory(const std::string& path, const CreateOptions& options,
                                                     std::function<Status(const std::string& folder)> check = {});

}  // namespace pare
