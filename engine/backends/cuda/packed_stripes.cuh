// engine/backends/cuda/packed_stripes.cuh: the kernel "packed_fragments" for more rows than packed_vector
// takes; packed_stripes_*.cu instantiate it.
//
// A block of 8 warps makes 128 outputs x 32 or 64 rows of inputs, y^T = W x^T. Weights (8 KB of 4 bits) and
// inputs (8 or 16 KB) of 128 columns go through a ring in shared memory, four stages ahead by cp.async; two
// blocks per multiprocessor keep 48 KB and more of weights under way. A warp owns two tiles of 16 outputs and
// 32 rows of inputs: each fragment of inputs meets two of weights, so shared memory delivers as fast as
// tensor cores take. With 32 rows the two halves of the warps take one block of 64 columns each, with 64 rows
// the two halves of the rows. Codes are exact in bf16, and scales are applied in float to the sum of a group:
// inputs are all that is rounded.
#pragma once

#include "engine/backends/cuda/packed_fragments.cuh"
#include "engine/backends/cuda/packed_stripes.h"

namespace pare::cuda {

constexpr int kStripeWarps = 8;
constexpr int kStripeTiles = 8;
constexpr int kRowBytes =
    2 * 128 + 16;  // of inputs per stage; 16 against bank conflicts, as in packed_vector

// Shared memory: the ring, and the sums of the second half of K.
template <typename Format, int Halves>
struct StripeStage {
  static constexpr int kTileBytes = Format::kStagedPieces * kPieceBytes;
  static constexpr int kWeightBytes = kStripeTiles * kTileBytes;
  static constexpr int kBytes = kWeightBytes + Halves * 32 * kRowBytes;
  static constexpr int kStages = Format::kStagedPieces == 2 ? 4 : 3;
  static constexpr int kSumBytes = Halves == 1 ? 4 * kWarp * 32 * int(sizeof(float)) : 0;
  static constexpr int kShared = kStages * kBytes + kSumBytes;
};

// Halves: 1 for 32 rows of inputs per block, 2 for 64. RunSteps as in packed_vector. Two blocks per
// multiprocessor where 128 registers do.
template <typename Format, int RunSteps, int Halves, bool Wide>
__global__ void __launch_bounds__(kStripeWarps* kWarp, RunSteps == 4 && Format::kWords == 4 ? 2 : 1)
    packed_stripes_kernel(PackedProduct p, StripeGeometry s, StripeBuffers buffers) {
  using Stage = StripeStage<Format, Halves>;
  constexpr int kBlocksPerWarp = Halves;  // of the two of a stage
  PARE_SHARED_BYTES(shared);
  const FragmentMatrix& w = p.w;
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp, g = lane / 4, t = lane % 4;
  const int pair = warp % 4, second = warp / 4;  // two tiles of the eight; which half of K or of the rows
  const int first_row = int(blockIdx.y) * Halves * 32;
  const int begin = int(blockIdx.x) * s.per_run, end = min(begin + s.per_run, s.units());
  const typename Format::Table table = Format::load_table(w);

  const auto issue = [&](int unit) {
    unsigned char* stage = shared + (unit - begin) % Stage::kStages * Stage::kBytes;
    const int block = unit % s.stages * 2;
    // a tile past the end: the last one again, not stored
    const int tile = min(unit / s.stages * kStripeTiles + warp, w.tiles - 1);
    const unsigned char* codes = w.codes + int64_t(tile) * w.tile_bytes;
#pragma unroll
    for (int i = 0; i < Format::kStagedPieces; ++i) {
      const unsigned char* from = Format::piece(w, codes, block, i);
      if (from != nullptr)
        ptx::cp_async_16_once(stage + warp * Stage::kTileBytes + i * kPieceBytes + lane * 16,
                              from + lane * 16);
    }
    for (int i = int(threadIdx.x); i < Halves * 32 * 16; i += kStripeWarps * kWarp) {
      const int row = i / 16, at = i % 16 * 16;
      const bool is_there = first_row + row < p.m && block + at / 128 < w.blocks;
      const int64_t from = (int64_t(is_there ? first_row + row : 0) * w.blocks + block) * 128 + at;
      ptx::cp_async_16(stage + Stage::kWeightBytes + row * kRowBytes + at,
                       buffers.inputs + (is_there ? from : 0), is_there ? 16 : 0);
    }
  };

  ptx::wait_for_predecessor();
  for (int i = 0; i < Stage::kStages - 1; ++i) {
    if (begin + i < end) issue(begin + i);
    ptx::cp_async_commit();
  }
  float acc[2][4][4] = {};  // tile, eight rows of inputs, fragment
  for (int unit = begin; unit < end; ++unit) {
    const int group = unit / s.stages, k_stage = unit % s.stages;
    ptx::cp_async_wait<Stage::kStages - 2>();
    __syncthreads();  // the stage is there for all, and nobody still reads the one that is filled next
    if (unit + Stage::kStages - 1 < end) issue(unit + Stage::kStages - 1);
    ptx::cp_async_commit();
    const unsigned char* stage = shared + (unit - begin) % Stage::kStages * Stage::kBytes;
    const unsigned char* inputs = stage + Stage::kWeightBytes + (Halves == 2 ? second * 32 * kRowBytes : 0);
#pragma unroll 1
    for (int i = 0; i < kBlocksPerWarp; ++i) {
      const int in_stage = Halves == 1 ? second : i, block = k_stage * 2 + in_stage;
      if (block >= w.blocks) break;
      uint32_t words[2][Format::kWords];
#pragma unroll
      for (int tile = 0; tile < 2; ++tile)
        Format::load_staged(w, stage + (pair * 2 + tile) * Stage::kTileBytes, block, lane, words[tile]);
      float part[2][4][4];
      uint32_t b[4][4];
      RawGrid<Wide> grid[2];
      Bias bias[2];
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        if (step % RunSteps == 0) {
#pragma unroll
          for (int tile = 0; tile < 2; ++tile) {
            const int of = min(group * kStripeTiles + pair * 2 + tile, w.tiles - 1);
            grid[tile] = load_grid<Wide>(w, of, group_of_step(w, block * 4 + step), g);
            bias[tile] = Format::bias(w, zeros_of(w, grid[tile]));
#pragma unroll
            for (int c = 0; c < 4; ++c)
              part[tile][c][0] = part[tile][c][1] = part[tile][c][2] = part[tile][c][3] = 0.0f;
          }
        }
        if (step % 2 == 0) {
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            const uint4 both = *reinterpret_cast<const uint4*>(inputs + (c * 8 + g) * kRowBytes +
                                                               in_stage * 128 + t * 32 + step * 8);
            b[c][0] = both.x, b[c][1] = both.y, b[c][2] = both.z, b[c][3] = both.w;
          }
        }
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) {
          uint32_t a[4];
          Format::fragment(w, table, words[tile], step, bias[tile], a);
#pragma unroll
          for (int c = 0; c < 4; ++c)
            ptx::mma_bf16(part[tile][c], a, {b[c][step % 2 * 2], b[c][step % 2 * 2 + 1]});
        }
        if (w.offset == GridOffset::minimum) {
          const uint32_t ones[4] = {kBf16Ones, kBf16Ones, kBf16Ones, kBf16Ones};
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            float sum[4] = {};  // of the inputs of this step, for every output alike
            ptx::mma_bf16(sum, ones, {b[c][step % 2 * 2], b[c][step % 2 * 2 + 1]});
#pragma unroll
            for (int tile = 0; tile < 2; ++tile) {
              const float2 minimum = floats_of(grid[tile].offset, w.scale_type);
              acc[tile][c][0] = fmaf(minimum.x, sum[0], acc[tile][c][0]);
              acc[tile][c][1] = fmaf(minimum.x, sum[1], acc[tile][c][1]);
              acc[tile][c][2] = fmaf(minimum.y, sum[2], acc[tile][c][2]);
              acc[tile][c][3] = fmaf(minimum.y, sum[3], acc[tile][c][3]);
            }
          }
        }
        if ((step + 1) % RunSteps == 0) {
#pragma unroll
          for (int tile = 0; tile < 2; ++tile) {
            const float2 scale = floats_of(grid[tile].scale, w.scale_type);
#pragma unroll
            for (int c = 0; c < 4; ++c) {
              acc[tile][c][0] = fmaf(scale.x, part[tile][c][0], acc[tile][c][0]);
              acc[tile][c][1] = fmaf(scale.x, part[tile][c][1], acc[tile][c][1]);
              acc[tile][c][2] = fmaf(scale.y, part[tile][c][2], acc[tile][c][2]);
              acc[tile][c][3] = fmaf(scale.y, part[tile][c][3], acc[tile][c][3]);
            }
          }
        }
      }
    }
    if (k_stage + 1 < s.stages && unit + 1 < end) continue;

    // The end of a tile, or of this run: the halves of K together, then out, or to those who have the rest.
    float* flat = &acc[0][0][0];
    if constexpr (Halves == 1) {
      float* sums =
          reinterpret_cast<float*>(shared + Stage::kStages * Stage::kBytes) + pair * (32 * kWarp) + lane;
      if (second == 1) {
#pragma unroll
        for (int i = 0; i < 32; ++i) sums[i * kWarp] = flat[i];
      }
      __syncthreads();
      if (second == 0) {
#pragma unroll
        for (int i = 0; i < 32; ++i) flat[i] += sums[i * kWarp];
      }
    }
    const bool is_owner = Halves == 2 || second == 0;  // of the sums
    const auto store = [&] {
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        const int column = (group * kStripeTiles + pair * 2 + i / 16) * kTileRows + g + i % 4 / 2 * 8;
        const int row = first_row + (Halves == 2 ? second * 32 : 0) + i / 4 % 4 * 8 + t * 2 + i % 2;
        if (column >= w.out || row >= p.m) continue;
        float sum = flat[i];
        if (p.bias != nullptr) sum += p.bias[column];
        float* out = p.out + int64_t(row) * p.out_stride + column;
        *out = p.accumulate ? *out + sum : sum;
      }
    };
    const int first = s.first_run(group), last = s.last_run(group);
    if (first == last) {
      if (is_owner) store();
    } else {
      constexpr int kFloats = 128 * Halves * 32;
      float* base = buffers.partials + int64_t(blockIdx.y) * (2 * s.runs) * kFloats +
                    (warp % (4 * Halves)) * (32 * kWarp) + lane;
      if (is_owner) {
        float* mine = base + int64_t(s.place(int(blockIdx.x), group)) * kFloats;
#pragma unroll
        for (int i = 0; i < 32; ++i) __stcg(mine + i * kWarp, flat[i]);
      }
      __threadfence();
      __shared__ bool is_last;
      __syncthreads();
      if (threadIdx.x == 0) {
        unsigned* counter = w.arrivals + int(blockIdx.y) * s.tile_groups + group;
        is_last = atomicAdd(counter, 1u) == unsigned(last - first);
        if (is_last) *counter = 0;
      }
      __syncthreads();
      if (is_last && is_owner) {
        __threadfence();
#pragma unroll
        for (int i = 0; i < 32; ++i) flat[i] = 0.0f;
        for (int run = first; run <= last; ++run) {
          const float* from = base + int64_t(s.place(run, group)) * kFloats;
#pragma unroll
          for (int i = 0; i < 32; ++i) flat[i] += __ldcg(from + i * kWarp);
        }
        store();
      }
    }
#pragma unroll
    for (int i = 0; i < 32; ++i) flat[i] = 0.0f;
  }
  ptx::cp_async_wait<0>();
}

template <typename Format, int RunSteps, bool Wide>
void launch_packed_stripes(Context& context, const PackedProduct& p, const StripeGeometry& s,
                           const StripeBuffers& buffers) {
  const auto launch = [&](auto kernel, int shared_bytes) {
    context.launch("packed_fragments", kernel,
                   {.grid = dim3(unsigned(s.runs), unsigned(s.column_groups)),
                    .block = kStripeWarps * kWarp,
                    .shared_bytes = size_t(shared_bytes)},
                   p, s, buffers);
  };
  if (s.columns == 32) {
    launch(packed_stripes_kernel<Format, RunSteps, 1, Wide>, StripeStage<Format, 1>::kShared);
  } else {
    launch(packed_stripes_kernel<Format, RunSteps, 2, Wide>, StripeStage<Format, 2>::kShared);
  }
}

}  // namespace pare::cuda
