// quantize/stream.h: a data-free method over a whole model, tensor by tensor, from a source to a sink. Peak
// memory is the largest tensor with its codes; pages of the source are released as soon as they are done.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "engine/models/architecture.h"
#include "engine/models/weight_sink.h"
#include "quantize/quantizer.h"

namespace pare {

// What a run will cost, from shapes alone.
struct QuantizePlan {
  uint64_t input_bytes = 0;
  uint64_t output_bytes = 0;       // weights as stored; file overhead excluded
  uint64_t peak_memory_bytes = 0;  // beyond the program itself
  int64_t quantized_tensors = 0, kept_tensors = 0;
  int64_t quantized_parameters = 0, parameters = 0;
  double bits_per_weight = 0.0;  // of the quantized tensors, scales included
};

QuantizePlan plan_quantization(const WeightSource& source, const ModelDescription& model,
                               const std::vector<std::optional<QuantScheme>>& schemes);

// Quantizes or copies every tensor of `model` in its order and records each in `manifest.tensors`. `advance`
// is called after each tensor with the bytes read; its error ends the run. Exit 4 when a tensor to quantize is already quantized.
Status quantize_stream(const WeightSource& source, const ModelDescription& model,
                       const std::vector<std::optional<QuantScheme>>& schemes, const QuantizeMethod& method,
                       const QuantizeOptions& options, WeightSink& sink, Manifest& manifest,
                       const std::function<Status(uint64_t bytes)>& advance);

}  // namespace pare
