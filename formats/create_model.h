// formats/create_model.h: one door for every kind of model that can be written.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/core/file.h"
#include "engine/models/weight_sink.h"
#include "engine/models/weight_source.h"

namespace pare {

struct CreateOptions {
  WriteOptions write;
  std::string config_text;      // config.json of the source, verbatim
  std::vector<Asset> assets;    // files that travel unchanged
  std::vector<Asset> made_files = {};  // safetensors only: files made for this output, such as quantize_config.json
  uint64_t expected_bytes = 0;  // size of the output, as far as known; 0: unknown
  std::optional<DType>
      dense_dtype;  // safetensors only: floating tensors are written in this type (f32, bf16, f16)
  uint64_t max_shard_bytes = 5'000'000'000;  // safetensors only: data of one shard
};

enum class OutputKind { pare, safetensors };

// ".pare" is our container, ".gguf" is refused (exit 4), anything else is a folder of safetensors.
Result<OutputKind> output_kind(const std::string& path);

// Starts an output. Nothing exists under `path` before finish() of the sink returns; dropping the sink
// removes everything.
//
// A safetensors sink holds dense tensors only: quantized ones are dequantized (to `dense_dtype`, else f32),
// and swapped back to [in, out] where the checkpoint has it so; `quantization_config` leaves config.json and
// its dtype follows the tensors. A .pare sink keeps quantized tensors as they are and ignores `dense_dtype`.
// Errors: 2 the output exists or is an input, 4 .gguf, 5 folder or free space.
Result<std::unique_ptr<WeightSink>> create_model(const std::string& path, const CreateOptions& options);

}  // namespace pare
