// The gradients of a matrix product, as defined.
#include "engine/backends/reference/backend_class.h"
#include "engine/backends/reference/training_class.h"
#include "engine/core/parallel.h"

namespace pare::reference {

// dx[m, k] (+)= sum_n dout[m, n] * weight[n, k]
void ReferenceTraining::matmul_input_backward(const MatmulInputBackwardArgs& a) {
  parallel_for(a.m, [&](int64_t m) {
    const float* dout = a.dout + m * a.dout_stride;
    for (int64_t k = 0; k < a.k; ++k) {
      float& dx = a.dx[m * a.dx_stride + k];
      double sum = a.accumulate ? double(dx) : 0.0;
      for (int64_t n = 0; n < a.n; ++n) {
        sum += double(dout[n]) * load(a.weight, a.weight_dtype, n * a.k + k);
      }
      dx = float(sum);
    }
  });
}

// dweight[n, k] += sum_m dout[m, n] * x[m, k];  dbias[n] += sum_m dout[m, n]
void ReferenceTraining::matmul_weight_backward(const MatmulWeightBackwardArgs& a) {
  parallel_for(a.n, [&](int64_t n) {
    for (int64_t k = 0; k < a.k; ++k) {
      float& dweight = a.dweight[n * a.k + k];
      double sum = double(dweight);
      for (int64_t m = 0; m < a.m; ++m) {
        sum += double(a.dout[m * a.dout_stride + n]) * double(a.x[m * a.x_stride + k]);
      }
      dweight = float(sum);
    }
    if (a.dbias == nullptr) return;
    double sum = double(a.dbias[n]);
    for (int64_t m = 0; m < a.m; ++m) sum += double(a.dout[m * a.dout_stride + n]);
    a.dbias[n] = float(sum);
  });
}

}  // namespace pare::reference
