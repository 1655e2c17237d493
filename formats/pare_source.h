// formats/pare_source.h: a .pare file as a WeightSource; internal to formats.
#pragma once

#include <memory>
#include <string>

#include "engine/core/file.h"
#include "engine/models/weight_source.h"

namespace pare {

Result<std::shared_ptr<const WeightSource>> open_pare(const std::string& path, InputFile input,
                                                      bool verify_checksums);

}  // namespace pare
