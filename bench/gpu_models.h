// bench/gpu_models.h: models of known shapes with random weights, made as they are read, so that cases on
// whole models need no file. Values depend on the tensor's name alone.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/models/weight_source.h"

namespace pare::bench {

// 8B: Llama-3-8B; 1B: Llama-3.2-1B; 135M: SmolLM2; 355M, 124M: blocks of Llama in the width and depth of
// GPT-2; head8B: one narrow block below the head of 8B; tiny, tinyteacher: two blocks, for
// the emulator.
const std::vector<std::string>& made_shapes();

// A shape in a form: "bf16", "w8" (int8-ch), "w4" (int4-g128; g64 where 128 does not divide the width),
// "w4+head8", "w4+head4" (the head as codes too, or the embedding that is the head). Matrices are uniform
// with deviation 0.02, gains 1. Exit 2 for a shape or a form that is not known.
Result<std::shared_ptr<const WeightSource>> made_model(const std::string& shape, const std::string& form);

// Writes it: NAME.pare, or a folder as Hugging Face has it (bf16 only, without tokenizer). Exit 2, 4, 5.
Status write_made_model(const std::string& shape, const std::string& form, const std::string& path);

}  // namespace pare::bench
