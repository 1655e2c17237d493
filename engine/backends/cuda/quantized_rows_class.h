// engine/backends/cuda/quantized_rows_class.h: rows rounded once on a GPU, by themselves or inside a norm.
#pragma once

#include "engine/backends/cuda/context.h"
#include "engine/tensor/quantized_rows_backend.h"

namespace pare::cuda {

class CudaQuantizedRows final : public QuantizedRowsBackend {
 public:
  explicit CudaQuantizedRows(Context& context) : context_(context) {}

  bool reads_rounded(const PackedMatrix& weight) const override;
  bool rounds_alike(const PackedMatrix& a, const PackedMatrix& b) const override;
  size_t rows_bytes(const PackedMatrix& weight, int64_t m) const override;
  void round_rows(const RoundRowsArgs& a) override;
  void rms_norm_rows(const RmsNormRowsArgs& a) override;
  void layer_norm_rows(const LayerNormRowsArgs& a) override;
  void matmul(const RoundedMatmulArgs& a) override;

 private:
  Context& context_;
};

}  // namespace pare::cuda
