// Operations on codes: every weight is first dequantized, by the definition in quantized_tensor.h.
#include <algorithm>

#include "engine/backends/reference/backend_class.h"
#include "engine/core/parallel.h"

namespace pare::reference {
namespace {

constexpr int64_t kLanes =
    8;  // rows of the weight that are dequantized at the same time, each into its own scratch

}  // namespace

Result<PackedMatrix> ReferenceBackend::prepack(std::shared_ptr<const QuantizedTensor> weight) {
  PARE_ASSERT(weight != nullptr, "[prepack] nothing to pack");
  PackedMatrix packed;
  packed.scheme = weight->scheme;
  packed.out = weight->out();
  packed.in = weight->in();
  packed.canonical = std::move(weight);
  return packed;
}

Result<QuantizedTensor> ReferenceBackend::unpack(const PackedMatrix& packed) {
  PARE_ASSERT(packed.layout == PackedLayout{} && packed.canonical != nullptr, "[unpack] layout {}",
              packed.layout.name);
  return *packed.canonical;
}

size_t ReferenceBackend::packed_matmul_workspace_bytes(const PackedMatrix& weight, int64_t) const {
  return size_t(std::min(kLanes, weight.out) * weight.in) * sizeof(float);
}

// out[m, n] (+)= sum_k x[m, k] * dequantize(weight)[n, k] + bias[n]
void ReferenceBackend::packed_matmul(const PackedMatmulArgs& a) {
  PARE_ASSERT(a.weight->layout == PackedLayout{} && a.weight->canonical != nullptr,
              "[packed_matmul] layout {}", a.weight->layout.name);
  const int64_t lanes = std::min(kLanes, a.n);
  parallel_for(lanes, [&](int64_t lane) {
    float* weight = static_cast<float*>(a.workspace) + lane * a.k;
    for (int64_t n = lane; n < a.n; n += lanes) {
      a.weight->canonical->dequantize_rows(n, n + 1, weight);
      for (int64_t m = 0; m < a.m; ++m) {
        const float* x = a.x + m * a.x_stride;
        float& out = a.out[m * a.out_stride + n];
        double sum = a.bias != nullptr ? double(a.bias[n]) : 0.0;
        for (int64_t k = 0; k < a.k; ++k) sum += double(x[k]) * double(weight[k]);
        out = float(a.accumulate ? double(out) + sum : sum);
      }
    }
  });
}

}  // namespace pare::reference
