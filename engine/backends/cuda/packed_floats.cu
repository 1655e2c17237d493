// Products of floats with dequantized weights, no operand rounded: one block of threads per tile of 16
// outputs and few rows of x. Its warps take blocks of 64 columns in turn; sums are added in the order of
// lanes and warps.
#include "engine/backends/cuda/packed_fragments.cuh"
#include "engine/backends/cuda/packed_matmul.h"

namespace pare::cuda {
namespace {

constexpr int kWarps = 8;

template <int Rows>
__global__ void __launch_bounds__(kWarps* kWarp) packed_floats_kernel(PackedProduct p) {
  __shared__ float sums[kWarps][kTileRows * Rows];
  const FragmentMatrix& w = p.w;
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp, g = lane / 4, t = lane % 4;
  const int tile = int(blockIdx.x), first_row = int(blockIdx.y) * Rows;
  const unsigned char* codes = w.codes + int64_t(tile) * w.tile_bytes;
  const float* x_rows[Rows];  // rows past the end: the last one again, not stored
#pragma unroll
  for (int m = 0; m < Rows; ++m) {
    const int row = first_row + m < p.m ? first_row + m : p.m - 1;
    x_rows[m] = p.x + int64_t(row) * p.x_stride;
  }
  float acc[2][Rows] = {};
  for (int block = warp; block < w.blocks; block += kWarps) {
    uint32_t words[AnyFormat::kWords];
    AnyFormat::load(w, codes, block, lane, words);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const int group = group_of_step(w, block * 4 + step);
      const int place = block * kBlockColumns + step * kStepColumns + 4 * t;
      float x[Rows][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = w.columns_of != nullptr ? w.columns_of[place + i] : place + i;
#pragma unroll
        for (int m = 0; m < Rows; ++m) {
          const bool is_there = column >= 0 && column < w.in;
          x[m][i] = is_there ? x_rows[m][column] : 0.0f;
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const FloatGrid grid = float_grid(w, tile, group, g, half);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint32_t codes_of_pair = any_pair(w.bits, words, step, half + i / 2 * 2);
          const float weight = grid.weight(w, codes_of_pair >> (16 * (i % 2)) & 0xff);
#pragma unroll
          for (int m = 0; m < Rows; ++m) acc[half][m] = fmaf(weight, x[m][i], acc[half][m]);
        }
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int m = 0; m < Rows; ++m) {
      float sum = acc[half][m];
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      if (t == 0) sums[warp][m * kTileRows + g + 8 * half] = sum;
    }
  }
  __syncthreads();
  for (int i = int(threadIdx.x); i < kTileRows * Rows; i += int(blockDim.x)) {
    const int row = first_row + i / kTileRows, column = tile * kTileRows + i % kTileRows;
    if (row >= p.m || column >= w.out) continue;
    float sum = sums[0][i];
    for (int from = 1; from < kWarps; ++from) sum += sums[from][i];
    if (p.bias != nullptr) sum += p.bias[column];
    float* out = p.out + int64_t(row) * p.out_stride + column;
    *out = p.accumulate ? *out + sum : sum;
  }
}

}  // namespace

void packed_floats(Context& context, const PackedProduct& p) {
  const auto launch = [&](auto kernel, int rows) {
    context.launch("packed_floats", kernel,
                   {.grid = dim3(unsigned(p.w.tiles), blocks_for(p.m, rows)), .block = kWarps * kWarp}, p);
  };
  if (p.m == 1) {
    launch(packed_floats_kernel<1>, 1);
  } else {
    launch(packed_floats_kernel<4>, 4);
  }
}

}  // namespace pare::cuda
