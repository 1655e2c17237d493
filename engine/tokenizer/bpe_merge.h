// engine/tokenizer/bpe_merge.h: joins the symbols of one piece by rank.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/tokenizer/model.h"
#include "engine/tokenizer/pair_ranks.h"

namespace pare {

// Repeats on scratch.symbols: take the adjacent pair with the lowest rank, leftmost on ties, and replace it
// by its result. The rest is appended to `ids`. Short pieces are searched directly, long ones through a heap
// over a linked list, so that a megabyte of one character takes O(n log n).
void merge_symbols(const PairRanks& merges, Scratch& scratch, std::vector<int32_t>& ids);

}  // namespace pare
