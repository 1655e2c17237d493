// prepack, unpack and packed_matmul: which layout, which kernel, whose workspace.
#include "engine/backends/cuda/packed_matmul.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/int8_matmul.h"
#include "engine/backends/cuda/packed_prepack.h"
#include "engine/backends/cuda/packed_stripes.h"
#include "engine/backends/cuda/packed_table.h"
#include "engine/backends/cuda/packed_vector.h"
#include "engine/backends/cuda/sparse_layout.h"
#include "engine/backends/cuda/sparse_matmul.h"

namespace pare::cuda {
namespace {

// The bytes of `tensor` as the host can read them.
Result<Tensor> on_host(Backend& backend, const Tensor& tensor) {
  if (!tensor.defined() || tensor.device().is_host()) return tensor;
  PARE_TRY(Tensor copy, Tensor::allocate(tensor.dtype(), tensor.shape()));
  PARE_CHECK(backend.download(copy.mutable_raw(), tensor.raw(), tensor.size_bytes()));
  return copy;
}

Result<Tensor> allocate_on(Backend& backend, DType dtype, const Shape& shape) {
  const auto bytes = size_t((shape.numel() * dtype_bits(dtype) + 7) / 8);
  PARE_TRY(std::shared_ptr<Storage> storage, backend.allocate(bytes));
  return Tensor(std::move(storage), 0, dtype, shape);
}

Result<Tensor> on_device(Backend& backend, const Tensor& tensor) {
  if (!tensor.defined() || !tensor.device().is_host()) return tensor;
  PARE_ASSERT(tensor.is_contiguous(), "[prepack] rows with gaps");
  PARE_TRY(Tensor copy, allocate_on(backend, tensor.dtype(), tensor.shape()));
  PARE_CHECK(backend.upload(copy.mutable_raw(), tensor.raw(), tensor.size_bytes()));
  return copy;
}

Result<Tensor> spread_groups(Backend& backend, Context& context, const QuantizedTensor& weight,
                             const FragmentGeometry& g, const int32_t* group_of, const Tensor& source) {
  PARE_TRY(Tensor from, on_device(backend, source));
  PARE_TRY(Tensor to, allocate_on(backend, source.dtype(), {g.tiles, g.groups, kTileRows}));
  launch_prepack_groups(context, from.raw(), to.mutable_raw(), int(dtype_bytes(source.dtype())), g, group_of,
                        weight.scheme.groups(g.in),
                        weight.scheme.granularity == QuantScheme::Granularity::tensor);
  return to;
}

// What stands behind the tiles: codebook, column map, counters.
std::vector<std::byte> trailer(const FragmentGeometry& g, const ColumnMap& map,
                               const std::vector<float>& table) {
  const int64_t begin = g.tiles * g.tile_bytes;
  std::vector<std::byte> bytes(size_t(g.code_bytes - begin));
  const auto put = [&](int64_t offset, const auto& values) {
    if (!values.empty())
      std::memcpy(bytes.data() + (offset - begin), values.data(), values.size() * sizeof(values[0]));
  };
  put(g.table_offset, table);
  put(g.map_offset, map.column_of);
  put(g.map_offset + int64_t(map.column_of.size() * sizeof(int32_t)), map.group_of);
  return bytes;
}

PackedProblem problem_of(const PackedMatrix& weight, int64_t m, MathMode math) {
  return {.m = m, .n = weight.out, .k = weight.in, .bits = weight.scheme.bits, .math = math};
}

constexpr size_t kAlign = 256;
size_t dense_bytes(const PackedMatrix& weight, MathMode math) {
  const size_t bytes = size_t(weight.out) * size_t(weight.in) * (math == MathMode::f32 ? 4 : 2);
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

// Of a weight that is not loaded yet, for any form that it may get: codes in the order of the columns or by
// group, or, of a sparse one, expanded or for sparse tensor cores.
size_t planned_workspace_bytes(const CudaBackend& backend, const PackedMatrix& weight, int64_t m) {
  const Context& context = backend.context();
  const QuantScheme& scheme = weight.scheme;
  const size_t bytes =
      std::max(dense_bytes(weight, context.math()) + backend.matmul_workspace_bytes(m, weight.out, weight.in),
               planned_sparse_workspace_bytes(m, weight.in));
  if (m > kMostStripeRows || weight.out == 0 || weight.in == 0) return bytes;
  int64_t columns = weight.in;
  if (scheme.granularity == QuantScheme::Granularity::group) {
    // Each group begins anew, one with more members than its size is several, and a few are empty at the end.
    const int64_t width = (scheme.group_size + kStepColumns - 1) / kStepColumns * kStepColumns;
    columns = (2 * scheme.groups(weight.in) + kBlockColumns / kStepColumns) * width;
  }
  const DeviceShape shape{.multiprocessors = context.multiprocessors(),
                          .shared_per_multiprocessor = context.properties().sharedMemPerMultiprocessor};
  const auto tiles = int((weight.out + kTileRows - 1) / kTileRows);
  const auto blocks = int((columns + kBlockColumns - 1) / kBlockColumns);
  // Fewer blocks may be cut into more unfinished sums, by one run per multiprocessor at most.
  const size_t stripes =
      stripe_geometry(shape, m, tiles, blocks).workspace_bytes + most_stripe_sums(shape, m);
  return std::max({bytes, stripes, most_vector_sums(m, tiles, blocks)});
}

}  // namespace

PackedProduct packed_product(const PackedMatmulArgs& a) {
  PARE_ASSERT(a.m <= INT32_MAX, "[packed_matmul] {} rows", a.m);
  return {.w = fragment_matrix(*a.weight),
          .x = a.x,
          .bias = a.bias,
          .out = a.out,
          .x_stride = a.x_stride,
          .out_stride = a.out_stride,
          .m = int32_t(a.m),
          .accumulate = a.accumulate};
}

Result<PackedMatrix> CudaBackend::prepack(std::shared_ptr<const QuantizedTensor> weight) {
  const QuantScheme& scheme = weight->scheme;
  if (weight->out() == 0 || weight->in() == 0) {
    PackedMatrix nothing;
    nothing.scheme = scheme;
    nothing.activation = weight->activation;
    nothing.out = weight->out();
    nothing.in = weight->in();
    nothing.canonical = std::move(weight);
    return nothing;
  }
  if (weight->activation) return prepack_int8(*this, *weight);
  PARE_TRY(const Tensor group_index, on_host(*this, weight->group_index));
  const ColumnMap map = column_map(scheme, weight->in(), group_index);
  const FragmentGeometry g = fragment_geometry(scheme, weight->out(), map, weight->in());
  if (g.columns() > kMaxFragmentColumns) {
    return Error{.exit = Exit::unsupported,
                 .rule = "PK21",
                 .path = "cuda",
                 .where = "prepack",
                 .what = "more inputs than a low-bit matrix may have on a GPU",
                 .got = std::to_string(g.columns()),
                 .limit = std::to_string(kMaxFragmentColumns)};
  }
  PackedMatrix packed;
  packed.layout = fragment_layout(map.order);
  packed.scheme = scheme;
  packed.out = g.out;
  packed.in = g.in;
  QuantizedTensor host;  // codebook_values() looks at it
  host.scheme = scheme;
  PARE_TRY(host.codebook, on_host(*this, weight->codebook));
  PARE_TRY(packed.codes, allocate_on(*this, DType::u8, {g.code_bytes}));
  const std::vector<std::byte> behind = trailer(g, map, codebook_values(host));
  PARE_CHECK(upload(packed.codes.mutable_raw() + g.tiles * g.tile_bytes, behind.data(), behind.size()));
  const auto* group_of = reinterpret_cast<const int32_t*>(packed.codes.raw() + g.map_offset) + g.columns();
  if (map.order == ColumnOrder::plain) group_of = nullptr;
  PARE_TRY(packed.scales, spread_groups(*this, *context_, *weight, g, group_of, weight->scales));
  if (scheme.offset != QuantScheme::Offset::none) {
    const bool has_points = scheme.offset == QuantScheme::Offset::zero_point;
    PARE_TRY(packed.offsets, spread_groups(*this, *context_, *weight, g, group_of,
                                           has_points ? weight->zero_points : weight->minimums));
  }
  PARE_TRY(const Tensor codes, on_device(*this, weight->codes));
  launch_prepack_codes(*context_, {codes.data<uint8_t>(), scheme.row_bytes(g.in)}, fragment_matrix(packed),
                       g);
  PARE_CHECK(finish());  // products read weights before they wait for what ran before them
  return packed;
}

Result<QuantizedTensor> CudaBackend::unpack(const PackedMatrix& packed) {
  if (packed.canonical != nullptr) return *packed.canonical;
  if (is_int8_layout(packed.layout)) return unpack_int8_from(*this, packed);
  PackedMatrix host = packed;
  PARE_TRY(host.codes, on_host(*this, packed.codes));
  PARE_TRY(host.scales, on_host(*this, packed.scales));
  PARE_TRY(host.offsets, on_host(*this, packed.offsets));
  return unpack_fragments(host);
}

size_t CudaBackend::packed_matmul_workspace_bytes(const PackedMatrix& weight, int64_t m) const {
  // One that is only planned has no layout yet.
  if (is_int8_layout(weight.layout) || (weight.activation && !weight.defined()))
    return int8_matmul_workspace_bytes(weight, m);
  if (is_sparse_layout(weight.layout)) return sparse_matmul_workspace_bytes(*this, weight, m);
  if (!weight.defined()) return planned_workspace_bytes(*this, weight, m);
  const MathMode math = context_->math();
  switch (choose_packed_kernel(problem_of(weight, m, math)).kind) {
    case PackedKernel::Kind::floats:
      return 0;
    case PackedKernel::Kind::vector:
      return vector_geometry(*context_, fragment_matrix(weight), m).workspace_bytes;
    case PackedKernel::Kind::fragments:
      return stripe_geometry(*context_, fragment_matrix(weight), m).workspace_bytes;
    case PackedKernel::Kind::dense:
      break;
  }
  return dense_bytes(weight, math) + matmul_workspace_bytes(m, weight.out, weight.in);
}

void CudaBackend::packed_matmul(const PackedMatmulArgs& a) {
  if (is_int8_layout(a.weight->layout)) return int8_matmul(*context_, a);
  if (is_sparse_layout(a.weight->layout)) return sparse_matmul(*this, a);
  const MathMode math = context_->math();
  const PackedProduct product = packed_product(a);
  const PackedProblem problem = problem_of(*a.weight, a.m, math);
  log_choice(problem);
  switch (choose_packed_kernel(problem).kind) {
    case PackedKernel::Kind::floats:
      return packed_floats(*context_, product);
    case PackedKernel::Kind::vector:
      return packed_vector(*context_, product, a.workspace);
    case PackedKernel::Kind::fragments:
      return packed_stripes(*context_, product, a.workspace);
    case PackedKernel::Kind::dense:
      break;
  }
  const DType dtype = math == MathMode::f32 ? DType::f32 : DType::bf16;
  launch_dequantize(*context_, product.w, dtype, a.workspace);
  matmul({.x = a.x,
          .weight = a.workspace,
          .weight_dtype = dtype,
          .bias = a.bias,
          .out = a.out,
          .m = a.m,
          .n = a.n,
          .k = a.k,
          .x_stride = a.x_stride,
          .out_stride = a.out_stride,
          .accumulate = a.accumulate,
          .workspace = static_cast<std::byte*>(a.workspace) + dense_bytes(*a.weight, math)});
}

}  // namespace pare::cuda
