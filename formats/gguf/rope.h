// formats/gguf/rope.h: rotary settings, config.json <-> GGUF; internal to formats.
//
// GGUF keeps Llama-3's scaling as a table: rope_freqs[k] divides the frequency of pair k.
#pragma once

#include <string>
#include <vector>

#include "engine/core/json.h"
#include "engine/models/model_config.h"
#include "formats/gguf/metadata.h"

namespace pare {

// Adds rope_theta and rope_scaling to `config`. A table of factors becomes rope type llama3 when those
// settings give it, else longrope with the factors for every length.
Status read_gguf_rope(const GgufMetadata& metadata, const std::string& architecture, int64_t head_dim,
                      const std::vector<float>& factors, Json& config);

// Llama-3's divisors of the frequencies of `dim` rotating components. Source: docs/interop.md.
std::vector<float> llama3_rope_factors(const RopeConfig& rope, int64_t dim);

}  // namespace pare
