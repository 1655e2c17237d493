#include "engine/backends/cuda/int8_matmul.h"
#include "engine/backends/cuda/quantized_rows_class.h"

namespace pare::cuda {

// A planned matrix has no layout yet, but the scheme and the rounding that decide on it.
bool CudaQuantizedRows::reads_rounded(const PackedMatrix& weight) const {
  return weight.activation.has_value() && !weight.pattern && weight.out > 0 && weight.in > 0 &&
         (is_int8_layout(weight.layout) || !weight.defined());
}

bool CudaQuantizedRows::rounds_alike(const PackedMatrix& a, const PackedMatrix& b) const {
  return reads_rounded(a) && reads_rounded(b) && a.activation == b.activation &&
         int8_segments(a) == int8_segments(b);
}

size_t CudaQuantizedRows::rows_bytes(const PackedMatrix& weight, int64_t m) const {
  return int8_matmul_workspace_bytes(weight, m);
}

void CudaQuantizedRows::round_rows(const RoundRowsArgs& a) {
  int8_round(context_, a.x, a.m, a.x_stride, *a.weight, a.rows);
}

void CudaQuantizedRows::rms_norm_rows(const RmsNormRowsArgs& a) {
  rms_norm_quantize(context_, a.norm, *a.weight, a.rows);
}

void CudaQuantizedRows::layer_norm_rows(const LayerNormRowsArgs& a) {
  layer_norm_quantize(context_, a.norm, *a.weight, a.rows);
}

void CudaQuantizedRows::matmul(const RoundedMatmulArgs& a) {
  int8_product(context_, {.x = nullptr,
                          .weight = a.weight,
                          .bias = a.bias,
                          .out = a.out,
                          .m = a.m,
                          .n = a.weight->out,
                          .k = a.weight->in,
                          .x_stride = 0,
                          .out_stride = a.out_stride,
                          .accumulate = a.accumulate,
                          .workspace = a.rows});
}

}  // namespace pare::cuda
