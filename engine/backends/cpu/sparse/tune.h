// engine/backends/cpu/sparse/tune.h: the speeds of choice.h, measured on this machine.
#pragma once

#include <functional>

#include "engine/backends/cpu/sparse/choice.h"

namespace pare::cpu {

// One line: what was measured and dense time / sparse time.
using TuneProgress = std::function<void(const SparseKind& kind, int size_class, double ratio)>;

// Times every kind against the dense kernel in turns: one token, one thread by its processor time, weights that
// are not in the cache. Takes a minute and about 300 MB. Error: exit 6.
Result<SparseTable> measure_sparse_table(Isa isa, const TuneProgress& progress);

}  // namespace pare::cpu
