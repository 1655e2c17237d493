// engine/backends/cuda/scales_class.h: the scale searches of AWQ and SmoothQuant on a GPU (scale_search.cu).
#pragma once

#include "engine/backends/cuda/columns_class.h"
#include "engine/backends/cuda/context.h"
#include "engine/tensor/scale_search.h"

namespace pare::cuda {

class CudaScaleSearch final : public ScaleSearch {
 public:
  // solver: of the same context, for the energies.
  CudaScaleSearch(Context& context, CudaColumnSolver& solver) : context_(context), solver_(solver) {}

  size_t workspace_bytes(int64_t rows, int64_t columns, int64_t at_once) const override;
  void losses(const ScaleLossesArgs& a) override;

 private:
  Context& context_;
  CudaColumnSolver& solver_;
};

}  // namespace pare::cuda
