// formats/open_model.h: one door for every kind of model that can be read.
#pragma once

#include <memory>
#include <string>

#include "engine/models/weight_source.h"

namespace pare {

struct OpenOptions {
  bool follow_symlinks = false;   // lets shards be symlinks that leave the model folder (IX03)
  bool allow_unindexed = false;   // ignores tensors that the index does not name (IX09)
  bool strict = false;            // a wrong total_size in the index is an error (IX11)
  std::string weights_file = {};  // file inside the folder, where there is a choice (IX15)
  bool weights_only = false;      // reads the weights of a model whose activations are quantized in a way pare does not execute
  bool verify_checksums = true;   // compare each tensor's XXH3-128, if there is one, on its first load
};

// Opens MODEL, which is one of
//   a Hugging Face folder (config.json and model.safetensors, or shards with an index); quantized matrices of
//   compressed-tensors, GPTQ and AWQ checkpoints come as QuantizedTensor (docs/interop.md),
//   a .safetensors file with its config.json beside it,
//   a .pare file, known by its content,
//   a .gguf file, known by its content; of a split one the first part,
//   org/name[@revision] in the local Hugging Face cache (HF_HUB_CACHE, HF_HOME, ~/.cache/huggingface/hub).
// Everything but the values of the tensors is checked before this returns. Warnings are logged once all
// checks passed. Errors: 3 malformed, 4 a format that pare does not read (pickle and relatives), 5
// missing or unreadable, 6 a cap.
Result<std::shared_ptr<const WeightSource>> open_model(const std::string& model,
                                                       const OpenOptions& options = {});

}  // namespace pare
