// engine/models/weight_sink.h: where a compressed model goes, tensor by tensor. formats/ implements it. A
// sink never holds more than the tensor it is writing.
#pragma once

#include <string_view>
#include <vector>

#include "engine/core/manifest.h"
#include "engine/core/result.h"
#include "engine/models/weight_source.h"

namespace pare {

class WeightSink {
 public:
  virtual ~WeightSink() = default;

  // Tensors arrive in the model's execution order (describe_tensors), each once. Returns exit 4 for a form
  // the format cannot hold.
  virtual Status put(std::string_view name, const WeightData& weight) = 0;
  // Writes what comes last, re-opens and checks what was written (NU12), publishes. Nothing exists under the
  // final name before.
  virtual Status finish(const Manifest& manifest) = 0;
  virtual uint64_t bytes_written() const = 0;
};

}  // namespace pare
