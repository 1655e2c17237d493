#include "engine/tokenizer/bpe_merge.h"

#include <algorithm>

namespace pare {
namespace {

constexpr size_t kDirectSymbols = 48;  // above this the heap is faster

void merge_directly(const PairRanks& merges, Scratch& scratch, std::vector<int32_t>& ids) {
  std::vector<int32_t>& symbols = scratch.symbols;
  std::vector<uint32_t>& ranks = scratch.ranks;  // of the pair (i, i + 1)
  std::vector<int32_t>& results = scratch.results;
  size_t size = symbols.size();
  ranks.assign(size, Merge::kNoRank);
  results.resize(size);
  const auto look_up = [&](size_t i) {
    const Merge merge = merges.find(symbols[i], symbols[i + 1]);
    ranks[i] = merge.rank;
    results[i] = merge.result;
  };
  for (size_t i = 0; i + 1 < size; ++i) look_up(i);
  while (size > 1) {
    const auto pairs_end = ranks.begin() + static_cast<std::ptrdiff_t>(size - 1);
    const auto lowest = std::min_element(ranks.begin(), pairs_end);  // the first of equals
    if (*lowest == Merge::kNoRank) break;
    const auto at = static_cast<size_t>(lowest - ranks.begin());
    symbols[at] = results[at];
    const auto from = static_cast<std::ptrdiff_t>(at + 1);
    const auto stop = static_cast<std::ptrdiff_t>(size);
    std::copy(symbols.begin() + from + 1, symbols.begin() + stop, symbols.begin() + from);
    std::copy(ranks.begin() + from + 1, ranks.begin() + stop, ranks.begin() + from);
    std::copy(results.begin() + from + 1, results.begin() + stop, results.begin() + from);
    --size;
    ranks[at] = Merge::kNoRank;
    if (at + 1 < size) look_up(at);
    if (at > 0) look_up(at - 1);
  }
  ids.insert(ids.end(), symbols.begin(), symbols.begin() + static_cast<std::ptrdiff_t>(size));
}

bool comes_later(const Scratch::Candidate& a, const Scratch::Candidate& b) {
  return a.order > b.order;
}

void merge_by_heap(const PairRanks& merges, Scratch& scratch, std::vector<int32_t>& ids) {
  std::vector<Scratch::Symbol>& list = scratch.list;
  std::vector<Scratch::Candidate>& heap = scratch.heap;
  const auto count = static_cast<uint32_t>(scratch.symbols.size());
  list.resize(count);
  heap.clear();
  const auto candidate = [&](uint32_t left) -> bool {
    const uint32_t right = list[left].next;
    if (right == count) return false;
    const Merge merge = merges.find(list[left].id, list[right].id);
    if (!merge.exists()) return false;
    heap.push_back({static_cast<uint64_t>(merge.rank) << 32 | left, merge.result});
    return true;
  };
  for (uint32_t i = 0; i < count; ++i) list[i] = {scratch.symbols[i], i == 0 ? count : i - 1, i + 1};
  for (uint32_t i = 0; i < count; ++i) candidate(i);
  std::make_heap(heap.begin(), heap.end(), comes_later);
  const auto push = [&](uint32_t left) {
    if (candidate(left)) std::push_heap(heap.begin(), heap.end(), comes_later);
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), comes_later);
    const Scratch::Candidate top = heap.back();
    heap.pop_back();
    const auto left = static_cast<uint32_t>(top.order);
    const uint32_t right = list[left].next;
    if (list[left].id < 0 || right == count) continue;
    // Stale when the pair at this place has changed since.
    if (merges.find(list[left].id, list[right].id).result != top.result) continue;
    list[left].id = top.result;
    list[left].next = list[right].next;
    list[right].id = -1;
    if (list[left].next != count) list[list[left].next].previous = left;
    if (list[left].previous != count) push(list[left].previous);
    push(left);
  }
  for (uint32_t i = 0; i < count; i = list[i].next) ids.push_back(list[i].id);
}

}  // namespace

void merge_symbols(const PairRanks& merges, Scratch& scratch, std::vector<int32_t>& ids) {
  if (scratch.symbols.size() <= kDirectSymbols) {
    merge_directly(merges, scratch, ids);
  } else {
    merge_by_heap(merges, scratch, ids);
  }
}

}  // namespace pare
