// engine/backends/cpu/sparse/choice.h: whether a sparse kernel or the dense one runs, by measured speed.
//
// A table holds, for each kind of sparse matrix and two classes of size, how many times faster than the dense
// kernel for the same values or scheme the sparse one is with one token. The built-in tables were measured
// once per level (bench/sparse_matmul.cpp), so the choice is the same on every machine; `pare doctor --tune`
// measures this one (tune.h).
#pragma once

#include <array>
#include <string>
#include <vector>

#include "engine/backends/cpu/isa.h"
#include "engine/backends/cpu/sparse/sparse_level.h"
#include "engine/tensor/backend.h"

namespace pare::cpu {

// What has a speed of its own.
struct SparseKind {
  SparseForm form;
  int n;           // of_four
  double density;  // masked: largest share of kept weights that this line stands for

  std::string name() const;  // "2of4-bf16", "masked-nibble-50"
};
const std::vector<SparseKind>& sparse_kinds();

constexpr int kSizeClasses = 2;  // fewer weights than this, or as many and more
constexpr int64_t kLargeMatrix = int64_t{2} << 20;
constexpr const char* kSizeNames[kSizeClasses] = {"small", "large"};

// Dense time / sparse time by sparse_kinds() and size class.
using SparseTable = std::vector<std::array<double, kSizeClasses>>;

const SparseTable& built_in_table(Isa isa);
// Replaces the built-in table of a level; before models are loaded.
void set_sparse_table(Isa isa, SparseTable table);

KernelChoice choose_sparse(Isa isa, const SparseSummary& weight);

}  // namespace pare::cpu
