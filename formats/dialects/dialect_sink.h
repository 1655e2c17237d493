// formats/dialects/dialect_sink.h: a model written as another tool stores it.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "formats/create_model.h"
#include "formats/dialects/dialect.h"

namespace pare {

// A folder of safetensors. Quantized tensors become the parts that the plan makes of them, all others stay as
// they are, config.json gets the plan's settings. Before anything appears under `path` the folder is read
// again as a foreign model, and every matrix must have the values it was handed in with (NU12). Tensors
// handed in must be those of the model that the plan was made for. Errors as create_model().
Result<std::unique_ptr<WeightSink>> create_dialect_sink(const std::string& path, const CreateOptions& options,
                                                        DialectPlan plan);

}  // namespace pare
