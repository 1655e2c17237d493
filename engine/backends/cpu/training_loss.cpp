#include <algorithm>

#include "engine/backends/cpu/kernels.h"
#include "engine/backends/cpu/training_class.h"
#include "engine/core/parallel.h"

namespace pare::cpu {

static_assert(kKnownIds <= kAttentionScratch);  // the kernel keeps the logits of known ids there

void CpuTraining::loss_rows(const LossRowsArgs& a) {
  constexpr int64_t kPieceElements = 16'384;
  const Kernels& table = kernels(isa_);
  parallel_ranges(a.rows, std::max<int64_t>(1, kPieceElements / a.columns),
                  [&](int64_t begin, int64_t end) { table.loss_rows(a, begin, end); });
}

}  // namespace pare::cpu
