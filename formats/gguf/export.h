// formats/gguf/export.h: what a model becomes as GGUF: names, types, metadata, tokenizer. The values are the
// caller's to make.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/models/architecture.h"
#include "formats/gguf/names.h"
#include "formats/gguf/writer.h"

namespace pare {

// One tensor of the output.
struct GgufPlanned {
  const TensorSpec* spec = nullptr;  // nullptr: the factors of rotary frequencies
  GgufSpec out;
  GgufChange change = GgufChange::none;
  int64_t head_dim = 0;  // of permuted tensors
  std::string reason;    // why the type is not the one asked for; empty: it is
};

struct GgufPlan {
  std::string architecture;
  GgufPairs pairs;
  std::vector<GgufPlanned> tensors;
  std::vector<float> rope_factors;
  std::vector<std::string> notes;  // what other programs will see differently
};

// "F16", "Q4_K", "Q4_K_M", ... as --type takes them.
const std::vector<std::string>& gguf_export_types();

// Decides everything but the values. Exit 4 for families, settings and tokenizers that GGUF has no place for;
// nothing is dropped without a note. Source: docs/interop.md.
Result<GgufPlan> plan_gguf(const WeightSource& source, const ModelDescription& model, std::string_view type);

// Metadata of the model (not of the tokenizer) into `plan`. Internal to the folder.
Status add_gguf_config(const ModelDescription& model, std::string_view path, GgufPlan& plan);
// Tokenizer keys into `plan`; rows: of the embedding. Internal to the folder.
Status add_gguf_tokenizer(const WeightSource& source, const ModelConfig& config, GgufPlan& plan);

}  // namespace pare
