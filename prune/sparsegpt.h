// prune/sparsegpt.h: weights removed column by column, the error of each carried into the columns that are
// still to come. Source: Frantar and Alistarh, "SparseGPT" (2023); exact steps: docs/methods.md.
#pragma once

#include <optional>
#include <string_view>

#include "calibrate/column_sweep.h"
#include "engine/tensor/mask.h"
#include "prune/select.h"

namespace pare {

struct SparseGptOptions {
  int64_t block = 128;  // columns whose mask is chosen together; rounded up to a multiple of the pattern
  Scope scope = Scope::layer;  // of the choice within such a block: over all rows, or in each row
  VectorLevel level = VectorLevel::avx512;
};

struct SparseGptOutput {
  Tensor weight;  // f32 [out, in], +0 where removed
  Mask mask;
  std::optional<QuantizedTensor> codes;  // with a rounder: what `weight` holds, where kept
  double loss = 0.0;                     // 1/2 tr(D (H + damping) D^T)
};

// weight f32 [out, in]; moment X^T X f32 [in, in]; factor: of that moment, with data, not failed; patterns
// other than unstructured need its natural order. `held`: weights that may not come back (zeros of an earlier
// run), or null; they count towards the share. `rounder`: rounds what is kept in the same sweep, or null.
// A factor on a GPU is swept there, except for patterns of blocks and with a rounder: these go on with a
// copy. With a share of zero and no rounder the weight comes back bit for bit. Exit 6, 7.
Result<SparseGptOutput> sparsegpt(const Tensor& weight, const HessianFactor& factor,
                                  const PruneTarget& target, const SparseGptOptions& options,
                                  const Mask* held, ColumnRounder* rounder, std::string_view name);

}  // namespace pare
