#include "engine/backends/reference/backend_class.h"
#include "engine/core/parallel.h"

namespace pare::reference {

size_t ReferenceBackend::matmul_workspace_bytes(int64_t, int64_t, int64_t) const {
  return 0;
}

// out[m, n] (+)= sum_k x[m, k] * weight[n, k] + bias[n]
void ReferenceBackend::matmul(const MatmulArgs& a) {
  parallel_for(a.n, [&](int64_t n) {
    for (int64_t m = 0; m < a.m; ++m) {
      const float* x = a.x + m * a.x_stride;
      float& out = a.out[m * a.out_stride + n];
      double sum = a.bias != nullptr ? double(a.bias[n]) : 0.0;
      for (int64_t k = 0; k < a.k; ++k) sum += double(x[k]) * load(a.weight, a.weight_dtype, n * a.k + k);
      out = float(a.accumulate ? double(out) + sum : sum);
    }
  });
}

}  // namespace pare::reference
