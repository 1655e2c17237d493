// engine/models/weight_sink.h: where a compressed model goes, tensor by tensor. formats/ implements it. A
// sink never holds more than the tensor it is writing.
#pragma once

#include <functional>
#include <string_view>
#include <utility>
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

  // Called once by finish(), when everything is written and checked and only the name is missing, with the
  // manifest as it was stored; an error stops the output. A job commits here what its output will be
  // (docs/jobs.md).
  void before_publish(std::function<Status(const Manifest& stored)> action) {
    before_publish_ = std::move(action);
  }

 protected:
  Status announce(const Manifest& stored) const {
    return before_publish_ ? before_publish_(stored) : Status();
  }

 private:
  std::function<Status(const Manifest&)> before_publish_;
};

}  // namespace pare
