// engine/backends/cuda/packed_vector.cuh: products of up to 16 rows of inputs; packed_vector_*.cu instantiate
// it.
//
// Limit: the bytes of the weights. A warp loads a chunk (2 KB, 16 bytes per lane four times, past L1 and
// first to leave L2) while it multiplies the chunk before, so 4 to 8 loads per lane are under way. Tensor
// cores take the dequantized codes as rows and the inputs as columns (y^T = W x^T): for 4 bits about two
// instructions per weight in all, where a CUDA core needs three for one row of inputs and a fourth for each
// more. The first chunk is asked for before the inputs, which may still be in the making.
#pragma once

#include "engine/backends/cuda/packed_fragments.cuh"
#include "engine/backends/cuda/packed_geometry.h"
#include "engine/backends/cuda/packed_inputs.cuh"
#include "engine/backends/cuda/packed_vector.h"

namespace pare::cuda {

template <typename Format, int Chunk, int Runs, bool Wide>
struct WeightChunk {
  uint32_t words[Chunk][Format::kWords];
  RawGrid<Wide> grids[Wide ? 1 : Chunk * Runs];  // floats would take too many registers: read at their use
};

// 128 registers: two blocks of 8 warps, or one of 16, per multiprocessor. RunSteps: steps of 16 columns that
// surely share a grid (4, 2 or 1). Columns: tiles of 8 rows of inputs.
template <typename Format, int RunSteps, int Columns, bool Wide>
__global__ void __launch_bounds__(512, 1)
    packed_vector_kernel(PackedProduct p, VectorGeometry v, float* partials) {
  constexpr int kChunk = Format::kChunkBlocks, kRuns = 4 / RunSteps;
  using Weights = WeightChunk<Format, kChunk, kRuns, Wide>;
  PARE_SHARED_BYTES(shared);
  const FragmentMatrix& w = p.w;
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp, g = lane / 4, t = lane % 4;
  const int tiles_together = v.warps / v.warps_per_tile;
  const int tile_in_group = warp / v.warps_per_tile, warp_in_tile = warp % v.warps_per_tile;
  const int slice = int(blockIdx.y), first_block = slice * v.blocks_per_slice;
  const int end_block = min(first_block + v.blocks_per_slice, w.blocks);
  // the same number of turns for all warps: they meet after each tile
  const int turns = (v.blocks_per_slice / kChunk + v.warps_per_tile - 1) / v.warps_per_tile;
  const typename Format::Table table = Format::load_table(w);

  const auto load = [&](int group, int turn, Weights& to) {
    const int tile = group * tiles_together + tile_in_group;
    const int block = first_block + (turn * v.warps_per_tile + warp_in_tile) * kChunk;
    if (tile >= w.tiles) return;
    const unsigned char* codes = w.codes + int64_t(tile) * w.tile_bytes;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (block + i < end_block) Format::load(w, codes, block + i, lane, to.words[i]);
    }
    if constexpr (!Wide) {
#pragma unroll
      for (int i = 0; i < kChunk * kRuns; ++i) {
        if (block + i / kRuns < end_block)
          to.grids[i] = load_grid<Wide>(w, tile, group_of_step(w, block * 4 + i * RunSteps), g);
      }
    }
  };

  int group = int(blockIdx.x), turn = 0;
  Weights next{};
  load(group, 0, next);
  ptx::wait_for_predecessor();
  const bool is_wide = inputs_are_wide(p);
  const int quads = (end_block - first_block) * (kBlockColumns / 4);
  for (int i = int(threadIdx.x); i < quads * p.m; i += int(blockDim.x)) {
    const int row = i / quads, place = i % quads * 4;
    *reinterpret_cast<uint2*>(shared + row * v.row_bytes + input_byte(place)) =
        load_inputs(p, p.x + int64_t(row) * p.x_stride, first_block * kBlockColumns + place, is_wide);
  }
  __syncthreads();

  float* sums = reinterpret_cast<float*>(shared + (p.m * v.row_bytes + 127) / 128 * 128);
  float acc[Columns][4] = {};
  int parity = 0;
  while (group < v.tile_groups) {
    Weights now = next;
    const int block = first_block + (turn * v.warps_per_tile + warp_in_tile) * kChunk;
    const bool is_there = group * tiles_together + tile_in_group < w.tiles;
    const bool ends_tile = turn + 1 == turns;
    const int this_group = group;
    turn = ends_tile ? 0 : turn + 1;
    if (ends_tile) group += int(gridDim.x);
    if (group < v.tile_groups) load(group, turn, next);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (!is_there || block + i >= end_block) break;
      uint32_t b[Columns][8];  // steps 0..3, two registers each
#pragma unroll
      for (int c = 0; c < Columns; ++c) {
        const int row = c * 8 + g;
        uint4 low = make_uint4(0, 0, 0, 0), high = low;
        if (row < p.m) {
          const uint4* at = reinterpret_cast<const uint4*>(shared + row * v.row_bytes +
                                                           (block + i - first_block) * 128 + t * 32);
          low = at[0], high = at[1];
        }
        b[c][0] = low.x, b[c][1] = low.y, b[c][2] = low.z, b[c][3] = low.w;
        b[c][4] = high.x, b[c][5] = high.y, b[c][6] = high.z, b[c][7] = high.w;
      }
#pragma unroll
      for (int run = 0; run < kRuns; ++run) {
        RawGrid<Wide> grid;
        if constexpr (Wide) {
          grid = load_grid<Wide>(w, this_group * tiles_together + tile_in_group,
                                 group_of_step(w, (block + i) * 4 + run * RunSteps), g);
        } else {
          grid = now.grids[i * kRuns + run];
        }
        const Bias bias = Format::bias(w, zeros_of(w, grid));
        float part[Columns][4] = {};
#pragma unroll
        for (int s = 0; s < RunSteps; ++s) {
          const int step = run * RunSteps + s;
          uint32_t a[4];
          Format::fragment(w, table, now.words[i], step, bias, a);
#pragma unroll
          for (int c = 0; c < Columns; ++c) ptx::mma_bf16(part[c], a, {b[c][2 * step], b[c][2 * step + 1]});
        }
        const float2 scale = floats_of(grid.scale, w.scale_type);
#pragma unroll
        for (int c = 0; c < Columns; ++c) {
          acc[c][0] = fmaf(scale.x, part[c][0], acc[c][0]);
          acc[c][1] = fmaf(scale.x, part[c][1], acc[c][1]);
          acc[c][2] = fmaf(scale.y, part[c][2], acc[c][2]);
          acc[c][3] = fmaf(scale.y, part[c][3], acc[c][3]);
        }
        if (w.offset == GridOffset::minimum) {
          const float2 minimum = floats_of(grid.offset, w.scale_type);
          const uint32_t ones[4] = {kBf16Ones, kBf16Ones, kBf16Ones, kBf16Ones};
#pragma unroll
          for (int c = 0; c < Columns; ++c) {
            float sum[4] = {};
#pragma unroll
            for (int s = 0; s < RunSteps; ++s) {
              const int step = run * RunSteps + s;
              ptx::mma_bf16(sum, ones, {b[c][2 * step], b[c][2 * step + 1]});
            }
            acc[c][0] = fmaf(minimum.x, sum[0], acc[c][0]);
            acc[c][1] = fmaf(minimum.x, sum[1], acc[c][1]);
            acc[c][2] = fmaf(minimum.y, sum[2], acc[c][2]);
            acc[c][3] = fmaf(minimum.y, sum[3], acc[c][3]);
          }
        }
      }
    }
    if (!ends_tile) continue;

    // Sums of the warps of a tile, in their order. Two buffers: the one before may still be read.
    float* buffer = sums + parity * v.warps * Columns * 128;
    parity ^= 1;
#pragma unroll
    for (int c = 0; c < Columns; ++c) {
      float4* to = reinterpret_cast<float4*>(buffer + (warp * Columns + c) * 128) + lane;
      *to = make_float4(acc[c][0], acc[c][1], acc[c][2], acc[c][3]);
      acc[c][0] = acc[c][1] = acc[c][2] = acc[c][3] = 0.0f;
    }
    __syncthreads();
    const int outputs = tiles_together * kTileRows;  // of this group
    const auto sum_of = [&](int output, int row) {
      const int in_tile = output % kTileRows, from = output / kTileRows * v.warps_per_tile;
      const int place = (in_tile % 8 * 4 + row % 8 / 2) * 4 + in_tile / 8 * 2 + row % 2;
      float sum = 0.0f;
      for (int i = 0; i < v.warps_per_tile; ++i)
        sum += buffer[((from + i) * Columns + row / 8) * 128 + place];
      return sum;
    };
    const auto store = [&](int output, int row, float sum) {
      const int column = this_group * outputs + output;
      if (column >= w.out) return;
      if (p.bias != nullptr) sum += p.bias[column];
      float* out = p.out + int64_t(row) * p.out_stride + column;
      *out = p.accumulate ? *out + sum : sum;
    };
    const int count = outputs * p.m;
    if (v.slices == 1) {
      for (int i = int(threadIdx.x); i < count; i += int(blockDim.x))
        store(i % outputs, i / outputs, sum_of(i % outputs, i / outputs));
      continue;
    }
    float* mine = partials + (int64_t(slice) * v.tile_groups + this_group) * count;
    for (int i = int(threadIdx.x); i < count; i += int(blockDim.x))
      __stcg(mine + i, sum_of(i % outputs, i / outputs));
    __threadfence();
    __shared__ bool is_last;
    __syncthreads();
    if (threadIdx.x == 0) {
      is_last = atomicAdd(&w.arrivals[this_group], 1u) == unsigned(v.slices - 1);
      if (is_last) w.arrivals[this_group] = 0;
    }
    __syncthreads();
    if (!is_last) continue;
    __threadfence();
    for (int i = int(threadIdx.x); i < count; i += int(blockDim.x)) {
      float sum = 0.0f;
      for (int s = 0; s < v.slices; ++s)
        sum += __ldcg(partials + (int64_t(s) * v.tile_groups + this_group) * count + i);
      store(i % outputs, i / outputs, sum);
    }
  }
  ptx::release_successor();
}

// One format with a choice of how inputs and grids are cut.
template <typename Format, int RunSteps, bool Wide>
void launch_packed_vector(Context& context, const PackedProduct& p, const VectorGeometry& v,
                          float* partials) {
  const LaunchShape shape{.grid = dim3(unsigned(v.grid), unsigned(v.slices)),
                          .block = unsigned(v.warps * kWarp),
                          .shared_bytes = v.shared_bytes,
                          .is_dependent = true};
  if (p.m <= 8) {
    context.launch("packed_vector", packed_vector_kernel<Format, RunSteps, 1, Wide>, shape, p, v, partials);
  } else {
    context.launch("packed_vector", packed_vector_kernel<Format, RunSteps, 2, Wide>, shape, p, v, partials);
  }
}

}  // namespace pare::cuda
