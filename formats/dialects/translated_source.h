// formats/dialects/translated_source.h: a folder of another tool's quantized tensors as the model sees it;
// internal to formats.
#pragma once

#include <memory>
#include <string>

#include "formats/open_model.h"

namespace pare {

// The source itself when nothing in it is quantized by others. Else a source whose quantized matrices are
// QuantizedTensor, all other tensors as they were, and whose config has no "quantization_config" any more.
// `folder`: where config.json and, in old checkpoints, quantize_config.json or quant_config.json lie. Errors:
// CF12 (exit 4) for a quant_method that no dialect reads; QC01 to QC07; those of expected_tensors().
Result<std::shared_ptr<const WeightSource>> translated(std::shared_ptr<const WeightSource> stored,
                                                       const std::string& folder, const OpenOptions& options);

}  // namespace pare
