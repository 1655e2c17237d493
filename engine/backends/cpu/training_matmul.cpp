// The gradients of a matrix product.
#include <algorithm>

#include "engine/backends/cpu/training_class.h"
#include "engine/core/parallel.h"
#include "engine/tensor/float_formats.h"

namespace pare::cpu {
namespace {

float weight_at(const MatmulInputBackwardArgs& a, int64_t index) {
  if (a.weight_dtype == DType::f32) return static_cast<const float*>(a.weight)[index];
  const uint16_t half = static_cast<const uint16_t*>(a.weight)[index];
  return a.weight_dtype == DType::bf16 ? bf16_to_float(half) : f16_to_float(half);
}

}  // namespace

size_t CpuTraining::matmul_input_backward_workspace_bytes(int64_t, int64_t, int64_t) const {
  return 0;
}

void CpuTraining::matmul_input_backward(const MatmulInputBackwardArgs& a) {
  parallel_for(a.m, [&](int64_t m) {
    float* dx = a.dx + m * a.dx_stride;
    if (!a.accumulate) std::fill_n(dx, a.k, 0.0f);
    for (int64_t n = 0; n < a.n; ++n) {
      const float factor = a.dout[m * a.dout_stride + n];
      for (int64_t k = 0; k < a.k; ++k) dx[k] += factor * weight_at(a, n * a.k + k);
    }
  });
}

size_t CpuTraining::matmul_weight_backward_workspace_bytes(int64_t, int64_t, int64_t) const {
  return 0;
}

void CpuTraining::matmul_weight_backward(const MatmulWeightBackwardArgs& a) {
  parallel_for(a.n, [&](int64_t n) {
    float* dweight = a.dweight + n * a.k;
    for (int64_t m = 0; m < a.m; ++m) {
      const float factor = a.dout[m * a.dout_stride + n];
      const float* x = a.x + m * a.x_stride;
      for (int64_t k = 0; k < a.k; ++k) dweight[k] += factor * x[k];
      if (a.dbias != nullptr) a.dbias[n] += factor;
    }
  });
}

}  // namespace pare::cpu
