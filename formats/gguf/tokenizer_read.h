// formats/gguf/tokenizer_read.h: tokenizer keys of a GGUF file -> tokenizer.json and its neighbours; internal
// to formats.
#pragma once

#include <vector>

#include "engine/models/weight_source.h"
#include "formats/gguf/metadata.h"

namespace pare {

// tokenizer.json, tokenizer_config.json and, with end ids, generation_config.json; nothing for a file without
// a tokenizer. "gpt2" (byte-level BPE) and "llama" (pieces with scores) are converted, others are exit 4.
// Errors: GG33 (exit 3) for keys that contradict each other, GG37 (exit 4) for an unknown pre-tokenizer.
Result<std::vector<Asset>> gguf_tokenizer_assets(const GgufMetadata& metadata);

}  // namespace pare
