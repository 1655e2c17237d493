// cli/output_model.h: opening the sink of a command that writes a model, with everything that travels along.
#pragma once

#include <memory>
#include <string>

#include "cli/command.h"
#include "engine/models/weight_sink.h"
#include "engine/models/weight_source.h"

namespace pare {
struct DialectPlan;
}

namespace pare::cli {

struct OutputOptions {
  std::string path;
  bool force = false;
  std::string dense_dtype;       // of dense weights written to safetensors: "", bf16, f16, f32
  uint64_t max_shard_bytes = 0;  // 0: the format's default
};

// Checks the name and the free space before any work, then opens the sink. `expected_bytes`: of the weights.
Status check_output_model(const WeightSource& source, const OutputOptions& options, uint64_t expected_bytes);
Result<std::unique_ptr<WeightSink>> open_output_model(const WeightSource& source,
                                                      const OutputOptions& options, uint64_t expected_bytes);

// The same for a folder in another tool's form.
Result<std::unique_ptr<WeightSink>> open_dialect_output(const WeightSource& source, const OutputOptions& options,
                                                        uint64_t expected_bytes, const DialectPlan& plan);

// A manifest for this command with inputs hashed and earlier manifests as history.
Result<Manifest> start_manifest(const WeightSource& source, const std::string& command, Json options,
                                uint64_t seed);

// Bytes on disk of a file, or of all files in a directory.
Result<uint64_t> bytes_on_disk(const std::string& path);

}  // namespace pare::cli
