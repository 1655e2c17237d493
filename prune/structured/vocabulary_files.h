// prune/structured/vocabulary_files.h: the tokenizer of a model whose vocabulary was cut.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/models/weight_source.h"

namespace pare {

// The source's assets with the ids renumbered (-1: gone): tokenizer.json, added_tokens.json, vocab.json,
// merges.txt, tokenizer_config.json, generation_config.json. What cannot be rewritten and is not needed
// beside tokenizer.json (tokenizer.model) is left out. Exit 4 when there is no tokenizer.json, or its model
// is of a type that pare cannot cut.
Result<std::vector<Asset>> cut_vocabulary_files(const WeightSource& source, const std::vector<int32_t>& ids);

// Which ids stay: those seen at least `min_count` times (`counts` by id), special and added tokens, ids that
// config files name, single bytes and single characters, and all that is needed to build a kept one by
// merges. Where the number is to be a multiple, the smallest ids among the others fill it up. Errors as
// above.
Result<std::vector<int64_t>> choose_vocabulary(const WeightSource& source, int64_t vocabulary_size,
                                               const std::vector<uint64_t>& counts, uint64_t min_count,
                                               int64_t multiple);

}  // namespace pare
