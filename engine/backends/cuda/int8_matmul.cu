#include "engine/backends/cuda/int8_matmul.h"

#include "engine/backends/cuda/device_parts.h"
#include "engine/backends/cuda/int8_kernels.h"

namespace pare::cuda {
namespace {

constexpr size_t kAlignment = 64;

size_t aligned(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

Result<PackedMatrix> prepack_int8(Backend& backend, const QuantizedTensor& weight) {
  PARE_TRY(PackedMatrix packed, pack_int8(weight));
  return parts_to_device(backend, std::move(packed));
}

Result<QuantizedTensor> unpack_int8_from(Backend& backend, const PackedMatrix& packed) {
  PARE_TRY(const PackedMatrix host, parts_to_host(backend, packed));
  return unpack_int8(host);
}

Int8Rows int8_rows(const Int8Segments& segments, int64_t m, void* workspace) {
  auto* bytes = static_cast<std::byte*>(workspace);
  const size_t codes = aligned(size_t(m * segments.padded())), rows = aligned(size_t(m) * sizeof(RoundedRow));
  return {.codes = reinterpret_cast<int8_t*>(bytes),
          .rows = reinterpret_cast<RoundedRow*>(bytes + codes),
          .sums = reinterpret_cast<int32_t*>(bytes + codes + rows)};
}

size_t int8_matmul_workspace_bytes(const PackedMatrix& weight, int64_t m) {
  const Int8Segments segments = int8_segments(weight);
  return aligned(size_t(m * segments.padded())) + aligned(size_t(m) * sizeof(RoundedRow)) +
         aligned(size_t(m * segments.count) * sizeof(int32_t));
}

void int8_product(Context& context, const PackedMatmulArgs& a) {
  const PackedMatrix& weight = *a.weight;
  Int8Problem p;
  p.segments = int8_segments(weight);
  p.x = int8_rows(p.segments, a.m, a.workspace);
  p.codes = weight.codes.data<uint8_t>();
  p.scales = weight.scales.data<float>();
  p.zeros = weight.offsets.defined() ? weight.offsets.data<int32_t>() : nullptr;
  p.sums = weight.offsets.defined() ? p.zeros + p.segments.count * a.n : nullptr;
  p.bias = a.bias;
  p.out = a.out;
  p.m = a.m, p.n = a.n, p.out_stride = a.out_stride;
  p.row_bytes = weight.codes.size(1);
  p.is_nibbles = weight.layout.name == "cuda-int4x8";
  p.accumulate = a.accumulate;
  if (a.m <= kInt8VectorTokens) return launch_int8_vector(context, p);
  launch_int8_mma(context, p);
}

void int8_matmul(Context& context, const PackedMatmulArgs& a) {
  int8_round(context, a.x, a.m, a.x_stride, *a.weight, a.workspace);
  int8_product(context, a);
}

}  // namespace pare::cuda
