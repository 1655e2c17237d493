// Operations on codes and on sparse matrices: every weight is first made a float, by the definitions in
// quantized_tensor.h and sparse_tensor.h.
#include <algorithm>

#include "engine/backends/reference/backend_class.h"
#include "engine/core/parallel.h"
#include "engine/tensor/integer_product.h"

namespace pare::reference {
namespace {

constexpr int64_t kLanes =
    8;  // rows of the weight that are dequantized at the same time, each into its own scratch

}  // namespace

Result<PackedMatrix> ReferenceBackend::prepack(std::shared_ptr<const QuantizedTensor> weight) {
  PARE_ASSERT(weight != nullptr, "[prepack] nothing to pack");
  if (weight->activation) {
    PARE_CHECK(check_integer_product(weight->scheme, *weight->activation, weight->group_index.defined()));
  }
  PackedMatrix packed;
  packed.scheme = weight->scheme;
  packed.activation = weight->activation;
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

Result<PackedMatrix> ReferenceBackend::prepack_sparse(std::shared_ptr<const SparseTensor> weight) {
  PARE_ASSERT(weight != nullptr, "[prepack] nothing to pack");
  if (weight->activation) {  // a product of integers needs a code for every weight
    PARE_TRY(QuantizedTensor whole, weight->to_quantized({}, {}));
    return prepack(std::make_shared<QuantizedTensor>(std::move(whole)));
  }
  PackedMatrix packed;
  if (weight->scheme) packed.scheme = *weight->scheme;
  packed.pattern = weight->pattern;
  packed.value_dtype = weight->has_codes() ? DType::u8 : weight->values.dtype();
  packed.out = weight->out();
  packed.in = weight->in();
  packed.canonical_sparse = std::move(weight);
  return packed;
}

Result<SparseTensor> ReferenceBackend::unpack_sparse(const PackedMatrix& packed) {
  PARE_ASSERT(packed.layout == PackedLayout{} && packed.canonical_sparse != nullptr, "[unpack] layout {}",
              packed.layout.name);
  return *packed.canonical_sparse;
}

size_t ReferenceBackend::packed_matmul_workspace_bytes(const PackedMatrix& weight, int64_t m) const {
  if (weight.activation) return size_t(m) * (sizeof(RoundedRow) + size_t(weight.in));
  return size_t(std::min(kLanes, weight.out) * weight.in) * sizeof(float);
}

namespace {

// Code minus zero of column k.
int64_t centred_code(const QuantizedTensor& weight, int64_t n, int64_t k, int64_t zero) {
  const int64_t bits = weight.scheme.bits, first = k * bits;
  const uint8_t* row = weight.codes.data<uint8_t>() + n * weight.scheme.row_bytes(weight.in());
  unsigned pair = row[first / 8];
  if (first % 8 + bits > 8) pair |= unsigned(row[first / 8 + 1]) << 8;
  return int64_t((pair >> (first % 8)) & unsigned(weight.scheme.code_count() - 1)) - zero;
}

// integer_product.h, as it stands there.
void integer_matmul(const PackedMatmulArgs& a) {
  const QuantizedTensor& weight = *a.weight->canonical;
  const ActivationQuant& activation = *a.weight->activation;
  const IntegerSegments segments(weight.scheme, activation, a.k);
  auto* rows = static_cast<RoundedRow*>(a.workspace);
  auto* codes = reinterpret_cast<int8_t*>(rows + a.m);
  for (int64_t m = 0; m < a.m; ++m)
    rows[m] = round_activations(activation, a.x + m * a.x_stride, a.k, codes + m * a.k);
  const bool is_tensor = weight.scheme.granularity == QuantScheme::Granularity::tensor;
  parallel_for(a.n, [&](int64_t n) {
    for (int64_t m = 0; m < a.m; ++m) {
      float total = 0.0f;
      for (int64_t s = 0; s < segments.count; ++s) {
        const int64_t index = is_tensor ? 0 : n * segments.groups + segments.group_of(s);
        const int64_t zero = weight.zero_points.defined() ? weight.zero_points.data<uint8_t>()[index]
                                                          : weight.scheme.symmetric_zero_point();
        int64_t sum = 0;
        for (int64_t k = segments.begin(s); k < segments.end(s); ++k)
          sum += (int64_t(codes[m * a.k + k]) - rows[m].zero_point) * centred_code(weight, n, k, zero);
        PARE_ASSERT(sum == int64_t(int32_t(sum)), "[packed_matmul] sum {} beyond int32", sum);
        const float scale = rows[m].scale * float(load(weight.scales.raw(), weight.scales.dtype(), index));
        total += scale * float(int32_t(sum));
      }
      float& out = a.out[m * a.out_stride + n];
      if (a.bias != nullptr) total += a.bias[n];
      out = a.accumulate ? out + total : total;
    }
  });
}

}  // namespace

// out[m, n] (+)= sum_k x[m, k] * dequantize(weight)[n, k] + bias[n]; of sparse ones to_dense(weight), whose removed
// weights are +0
void ReferenceBackend::packed_matmul(const PackedMatmulArgs& a) {
  PARE_ASSERT(a.weight->layout == PackedLayout{} &&
                  (a.weight->canonical != nullptr || a.weight->canonical_sparse != nullptr),
              "[packed_matmul] layout {}", a.weight->layout.name);
  if (a.weight->activation) return integer_matmul(a);
  const int64_t lanes = std::min(kLanes, a.n);
  parallel_for(lanes, [&](int64_t lane) {
    float* weight = static_cast<float*>(a.workspace) + lane * a.k;
    for (int64_t n = lane; n < a.n; n += lanes) {
      if (a.weight->canonical_sparse != nullptr) {
        a.weight->canonical_sparse->dense_rows(n, n + 1, weight);
      } else {
        a.weight->canonical->dequantize_rows(n, n + 1, weight);
      }
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
