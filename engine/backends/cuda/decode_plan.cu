// Matrices of fused products as the kernels see them.
#include "engine/backends/cuda/decode_plan.h"

#include "engine/backends/cuda/decode_product.h"
#include "engine/backends/cuda/packed_layout_cuda.h"

namespace pare::cuda {
namespace {

constexpr int kWholeRow = 30;  // group_shift of matrices with one scale per row
constexpr int64_t kLargest = INT32_MAX;

struct Described {
  const char* problem = nullptr;  // why it is not taken
  WeightKind kind = WeightKind::bf16;
  ProductPart part = {};
  int64_t blocks = 0, tiles = 0;
  const int32_t* column_of = nullptr;
};

Described refused(const char* problem) {
  Described result;
  result.problem = problem;
  return result;
}

Described describe_dense(const DecodeMatrix& matrix) {
  Described result;
  const int64_t bytes = dtype_bytes(matrix.dtype);
  if (matrix.in % 8 != 0) return refused("a dense matrix whose inputs are no multiple of 8");
  if (reinterpret_cast<uintptr_t>(matrix.dense) % 16 != 0)
    return refused("a dense matrix that does not start on 16 bytes");
  result.kind = matrix.dtype == DType::bf16  ? WeightKind::bf16
                : matrix.dtype == DType::f16 ? WeightKind::f16
                                             : WeightKind::f32;
  result.part.weight = static_cast<const unsigned char*>(matrix.dense);
  result.part.row_bytes = matrix.in * bytes;
  result.blocks = (matrix.in + kStageBlock - 1) / kStageBlock;
  result.tiles = (matrix.out + kTileRows - 1) / kTileRows;
  return result;
}

Described describe_codes(const DecodeMatrix& matrix) {
  const PackedMatrix& packed = *matrix.packed;
  const QuantScheme& scheme = packed.scheme;
  if (packed.pattern) return refused("a sparse matrix");
  if (packed.activation) return refused("a product of integers");
  if (!is_fragment_layout(packed.layout)) return refused("a layout that is not of fragments");
  if (scheme.kind != QuantScheme::Kind::integer) return refused("codes that are not integers");
  if (scheme.bits != 4 && scheme.bits != 8) return refused("codes of neither 4 nor 8 bits");
  if (scheme.offset == QuantScheme::Offset::minimum) return refused("offsets that are floats");
  if (scheme.scale_dtype == DType::f32) return refused("scales of 32 bits");
  const FragmentGeometry geometry = fragment_geometry(packed);
  const bool is_grouped = geometry.groups > 1;
  int shift = kWholeRow;
  if (is_grouped) {
    shift = 0;
    while ((int64_t{1} << shift) < geometry.group_columns) ++shift;
    if (int64_t{1} << shift != geometry.group_columns || shift < 5)
      return refused("groups that are no power of two from 32 on");
  }
  if (geometry.tiles * geometry.groups * kTileRows > kLargest) return refused("too many groups");
  Described result;
  const bool is_short = shift == 5;
  result.kind = scheme.bits == 4 ? (is_short ? WeightKind::codes4_g32 : WeightKind::codes4)
                                 : (is_short ? WeightKind::codes8_g32 : WeightKind::codes8);
  const auto* codes = reinterpret_cast<const unsigned char*>(packed.codes.raw());
  result.part.weight = codes;
  result.part.scales = reinterpret_cast<const unsigned char*>(packed.scales.raw());
  if (packed.offsets.defined())
    result.part.offsets = reinterpret_cast<const unsigned char*>(packed.offsets.raw());
  result.part.tile_bytes = geometry.tile_bytes;
  result.part.groups = int(geometry.groups);
  result.part.group_shift = shift;
  result.part.zero = scheme.symmetric_zero_point();
  result.part.scale_kind = scheme.scale_dtype == DType::bf16 ? ScaleKind::bf16 : ScaleKind::f16;
  result.blocks = geometry.blocks;
  result.tiles = geometry.tiles;
  if (geometry.order != ColumnOrder::plain)
    result.column_of = reinterpret_cast<const int32_t*>(codes + geometry.map_offset);
  return result;
}

Described describe(const DecodeMatrix& matrix) {
  if (matrix.packed == nullptr && matrix.dense == nullptr) return refused("a matrix in factors");
  Described result = matrix.packed != nullptr ? describe_codes(matrix) : describe_dense(matrix);
  if (result.problem == nullptr && result.tiles * kTileRows > kLargest) return refused("too many outputs");
  result.part.bias = matrix.bias;
  result.part.out = int(matrix.out);
  result.part.in = int(matrix.in);
  return result;
}

}  // namespace

std::string why_not_planned(const DecodeMatrix* matrices, int count, int64_t rows) {
  PARE_ASSERT(count >= 1 && count <= kMostParts, "[decode] {} matrices", count);
  if (rows > kDecodeRows) return "more than 16 rows";
  const Described first = describe(matrices[0]);
  if (first.problem != nullptr) return first.problem;
  for (int i = 1; i < count; ++i) {
    const Described other = describe(matrices[i]);
    if (other.problem != nullptr) return other.problem;
    if (other.kind != first.kind) return "matrices of different kinds";
    if (other.blocks != first.blocks || other.column_of != nullptr || first.column_of != nullptr)
      return "matrices with inputs in different orders";
  }
  return {};
}

size_t fused_shared_bytes(const DecodeMatrix& matrix, int count, int64_t rows) {
  return product_shared_bytes(rows, describe(matrix).blocks, count == 2);
}

int warps_per_tile(int64_t blocks) {
  int warps = kStageWarps;
  while (warps > 1 && blocks < 2 * warps) warps /= 2;
  return warps;
}

void launch_fused(Context& context, const char* name, const FusedPlan& plan) {
  ProductKernelArgs args{};
  const Described first = describe(plan.matrices[0]);
  args.in = {.x = plan.in.x,
             .stride = plan.in.stride,
             .rows = int(plan.in.rows),
             .in = int(plan.matrices[0].in),
             .blocks = int(first.blocks),
             .column_of = first.column_of,
             .is_wide = reinterpret_cast<uintptr_t>(plan.in.x) % 16 == 0 && plan.in.stride % 4 == 0,
             .norm = plan.in.norm};
  int64_t column = 0;
  for (int i = 0; i < plan.count; ++i) {
    const Described described = describe(plan.matrices[i]);
    PARE_ASSERT(described.problem == nullptr && described.kind == first.kind, "[decode] {} is not fused",
                name);
    args.parts[i] = described.part;
    if (plan.is_pair) {
      args.tiles = int(described.tiles);
      continue;
    }
    args.parts[i].first_tile = args.tiles;
    args.parts[i].first_column = int(column);
    args.tiles += int(described.tiles);
    column += plan.matrices[i].out;
  }
  args.part_count = plan.count;
  args.warps_per_tile = warps_per_tile(first.blocks);
  args.out = plan.out;
  args.out_stride = plan.out_stride;
  args.accumulate = plan.accumulate;
  args.activation = plan.activation;
  if (plan.heads != nullptr) {
    args.finishes_heads = true;
    args.heads = *plan.heads;
    args.counters = plan.counters;
  }
  if (plan.matrices[0].packed != nullptr) {
    launch_code_product(context, name, first.kind, args, plan.is_pair);
  } else {
    launch_dense_product(context, name, first.kind, args, plan.is_pair);
  }
}

}  // namespace pare::cuda
