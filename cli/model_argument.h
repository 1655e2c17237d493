// cli/model_argument.h: from MODEL on the command line to a source, a tokenizer, and facts about both.
#pragma once

#include <memory>
#include <string>

#include "cli/command.h"
#include "engine/models/architecture.h"
#include "engine/models/weight_source.h"
#include "engine/tokenizer/tokenizer.h"

namespace pare::cli {

Result<std::shared_ptr<const WeightSource>> open_source(const std::string& model,
                                                        const CommonOptions& common);

// The tokenizer that travels with the model. Exit 5 when there is none.
Result<std::shared_ptr<const Tokenizer>> load_tokenizer(const WeightSource& source);

// Warns when the tokenizer has ids without a row in the embedding (TK20): published models do, for unused
// padding tokens.
void warn_of_missing_rows(const Tokenizer& tokenizer, const ModelConfig& config);

// Last component of a path, for labels and for manifests (which hold no paths).
std::string short_name(const std::string& path);

// Bytes of all weights as stored.
uint64_t stored_bytes(const WeightSource& source);
// Bytes of the weights while the model runs: sparse ones are unpacked.
uint64_t running_bytes(const WeightSource& source);

}  // namespace pare::cli
