// engine/tokenizer/load_merges.h: "merges" of a BPE model.
#pragma once

#include <string_view>
#include <vector>

#include "engine/tokenizer/load_fields.h"
#include "engine/tokenizer/pair_ranks.h"
#include "engine/tokenizer/vocabulary.h"

namespace pare {

struct LoadedMerges {
  PairRanks ranks;
  std::vector<int32_t> pairs;  // (left, right) in rank order
};
// Entries are "a b" or ["a", "b"], all of one kind. Errors: TK04 (malformed), TK05 (resource).
Result<LoadedMerges> load_merges(const Fields& model, const Vocabulary& vocabulary,
                                 std::string_view continuing_prefix);

}  // namespace pare
