// formats/pare_sink.h: a .pare file as a WeightSink; internal to formats.
#pragma once

#include <memory>
#include <string>

#include "formats/create_model.h"

namespace pare {

Result<std::unique_ptr<WeightSink>> create_pare(const std::string& path, const CreateOptions& options);

}  // namespace pare
