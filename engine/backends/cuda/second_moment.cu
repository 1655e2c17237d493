// x^T x and a^T b: products whose sums run over tokens, by cuBLASLt.
#include <algorithm>

#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/gemm.h"
#include "engine/backends/cuda/kernel.h"

namespace pare::cuda {
namespace {

// The moment is computed in panels of columns, from the diagonal down. Narrower panels waste less above the
// diagonal, wider ones fill the device: at 14,336 channels 1024 columns are 448 tiles of 128 x 256 at the
// top, and 54 % of the whole square is computed; at 4096 channels 62 %.
constexpr int64_t kPanel = 1024;
constexpr int kTile = 32;
constexpr int kTileRows = 8;  // of threads

// Tile (x, y) of the upper triangle from the lower one, through shared memory so that both sides are read and
// written along rows.
__global__ void mirror_kernel(MirrorMomentArgs a) {
  __shared__ float tile[kTile][kTile + 1];
  if (blockIdx.x < blockIdx.y) return;
  const int64_t n = a.channels, row = int64_t(blockIdx.y) * kTile, column = int64_t(blockIdx.x) * kTile;
  for (int i = threadIdx.y; i < kTile; i += kTileRows) {
    const int64_t r = column + i, c = row + threadIdx.x;
    if (r < n && c < n) tile[i][threadIdx.x] = a.moment[r * n + c];
  }
  __syncthreads();
  for (int i = threadIdx.y; i < kTile; i += kTileRows) {
    const int64_t r = row + i, c = column + threadIdx.x;
    if (r < c && c < n) a.moment[r * n + c] = tile[threadIdx.x][i];
  }
}

size_t rounded_bytes(const Context& context, int64_t rows, int64_t columns) {
  if (context.math() == MathMode::f32) return 0;
  return (size_t(rows * padded_width(columns)) * 2 + 63) / 64 * 64;
}

GemmFactor rounded(Context& context, const float* x, int64_t rows, int64_t columns, int64_t stride,
                   void* workspace) {
  if (context.math() == MathMode::f32) return {x, stride, false};
  convert_rows(context, {.from = x,
                         .to = workspace,
                         .from_type = DType::f32,
                         .to_type = DType::bf16,
                         .rows = rows,
                         .columns = columns,
                         .from_stride = stride,
                         .to_stride = padded_width(columns)});
  return {workspace, padded_width(columns), false};
}

GemmFactor columns_from(GemmFactor factor, int64_t column, DType type, bool is_transposed) {
  return {static_cast<const unsigned char*>(factor.data) + column * dtype_bytes(type), factor.stride,
          is_transposed};
}

}  // namespace

size_t CudaStatistics::second_moment_workspace_bytes(int64_t tokens, int64_t channels) const {
  return rounded_bytes(context_, tokens, channels);
}

void CudaStatistics::second_moment(const SecondMomentArgs& a) {
  const DType type = context_.math() == MathMode::f32 ? DType::f32 : DType::bf16;
  const GemmFactor x = rounded(context_, a.x, a.tokens, a.channels, a.x_stride, a.workspace);
  for (int64_t begin = 0; begin < a.channels; begin += kPanel) {
    gemm(context_, "second_moment",
         {.type = type,
          .a = columns_from(x, begin, type, true),
          .b = columns_from(x, begin, type, false),
          .out = a.moment + begin * a.channels + begin,
          .bias = nullptr,
          .m = a.channels - begin,
          .n = std::min(kPanel, a.channels - begin),
          .k = a.tokens,
          .out_stride = a.channels,
          .alpha = a.scale,
          .accumulate = true});
  }
}

void CudaStatistics::mirror_moment(const MirrorMomentArgs& a) {
  const unsigned tiles = blocks_for(a.channels, kTile);
  context_.launch("mirror_moment", mirror_kernel,
                  {.grid = dim3(tiles, tiles), .block = dim3(kTile, kTileRows)}, a);
}

size_t CudaStatistics::cross_moment_workspace_bytes(int64_t tokens, int64_t rows, int64_t columns) const {
  return rounded_bytes(context_, tokens, rows) + rounded_bytes(context_, tokens, columns);
}

void CudaStatistics::cross_moment(const CrossMomentArgs& a) {
  const DType type = context_.math() == MathMode::f32 ? DType::f32 : DType::bf16;
  auto* workspace = static_cast<unsigned char*>(a.workspace);
  const GemmFactor left = rounded(context_, a.a, a.tokens, a.rows, a.a_stride, workspace);
  const GemmFactor right = rounded(context_, a.b, a.tokens, a.columns, a.b_stride,
                                   workspace + rounded_bytes(context_, a.tokens, a.rows));
  gemm(context_, "cross_moment",
       {.type = type,
        .a = {left.data, left.stride, true},
        .b = right,
        .out = a.cross,
        .bias = nullptr,
        .m = a.rows,
        .n = a.columns,
        .k = a.tokens,
        .out_stride = a.columns,
        .alpha = 1.0f,
        .accumulate = true});
}

}  // namespace pare::cuda
