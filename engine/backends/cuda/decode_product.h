// engine/backends/cuda/decode_product.h: norm, product and what follows it as one kernel, for 1 to 16 rows.
//
// At so few rows the weights are the whole cost. Every warp streams its share of a tile (16 outputs, all
// columns) straight into registers, kAhead blocks of 64 columns under way per warp; warps_per_tile warps
// share the columns of a tile block by block, so that neighbouring warps read neighbouring memory, and meet
// in shared memory. 256 threads and at most 128 registers: two blocks per multiprocessor keep 2 x 8 warps x 4
// blocks x 512 bytes = 32 KiB of 4-bit codes under way, more than latency times bandwidth of an H200 (27 KiB
// per multiprocessor). Weights of the first tile are asked for before the kernel ahead has ended. Tiles are
// dealt out round robin; the staged inputs serve all tiles of a block.
#pragma once

#include "engine/backends/cuda/activation_math.h"
#include "engine/backends/cuda/decode_heads.h"
#include "engine/backends/cuda/decode_rows.h"
#include "engine/backends/cuda/decode_weights.h"

namespace pare::cuda {

constexpr int kMostParts = 3;

struct ProductKernelArgs {
  StagedRows in;
  ProductPart parts[kMostParts];  // kPair: gate and up of the same tiles; otherwise one behind the other
  int part_count, tiles;
  int warps_per_tile;  // 1, 2, 4 or 8
  float* out;
  int64_t out_stride;
  bool accumulate, finishes_heads;
  Activation activation;
  DecodeHeadsArgs heads;
  int32_t* counters;
};

enum class WeightKind : uint8_t { bf16, f16, f32, codes4, codes4_g32, codes8, codes8_g32 };

// Sums of one tile by one warp: 8 Tiles input rows of 17 (16 outputs and a gap against bank conflicts).
template <int Tiles>
constexpr int kSumFloats = 8 * Tiles * 17;

template <int Tiles, bool Pair>
constexpr size_t product_sum_bytes() {
  return sizeof(float) * 2 * (Pair ? 2 : 1) * kStageWarps * kSumFloats<Tiles>;
}
inline size_t product_shared_bytes(int64_t rows, int64_t blocks, bool is_pair) {
  const size_t sums = rows > 8 ? (is_pair ? product_sum_bytes<2, true>() : product_sum_bytes<2, false>())
                               : (is_pair ? product_sum_bytes<1, true>() : product_sum_bytes<1, false>());
  return sums + staged_bytes(rows, blocks);
}

// Counts the outputs of a tile in for the heads that they belong to; a head whose last ones these are is
// finished by this block. Every thread of the block takes part. Whoever comes last sees what the others
// wrote: they fence between writing and counting. Which block that is changes nothing in the result.
template <typename Args>
__device__ __noinline__ void count_heads(const Args& a, int first_tile, int tile_count) {
  constexpr int kMostDone = 8 * 16 + 1;  // outputs of a block's tiles, where heads have one component
  __shared__ int done[kMostDone];
  __shared__ int done_count;
  const int dim = int(a.heads.head_dim);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    done_count = 0;
    for (int tile = first_tile; tile < first_tile + tile_count && tile < a.tiles; ++tile) {
      int p = 0;
      while (p + 1 < a.part_count && tile >= a.parts[p + 1].first_tile) ++p;
      const ProductPart& part = a.parts[p];
      const int begin = (tile - part.first_tile) * 16;
      int from = part.first_column + begin;
      const int end = part.first_column + (begin + 16 < part.out ? begin + 16 : part.out);
      while (from < end) {
        const int head = from / dim;
        const int to = (head + 1) * dim < end ? (head + 1) * dim : end;
        if (atomicAdd(a.counters + head, to - from) + (to - from) == dim) {
          a.counters[head] = 0;
          done[done_count++] = head;
        }
        from = to;
      }
    }
    __threadfence();
  }
  __syncthreads();
  const int items = done_count * a.in.rows;
  for (int item = int(threadIdx.x) / kWarp; item < items; item += kStageWarps)
    finish_vector(a.heads, item % a.in.rows, done[item / a.in.rows]);
  __syncthreads();  // before `done` changes
}

// Out of line, like count_heads(): their registers must not be those of the loop.
template <typename Kind>
__device__ __noinline__ float activated(Kind activation, float x) {
  float result = x;
  with_activation(activation, [&]<Activation F>() { result = evaluate<F>(x); });
  return result;
}

template <typename Weights, int Tiles, bool Pair>
__global__ void __launch_bounds__(kStageThreads, 2)
    decode_product_kernel(const __grid_constant__ ProductKernelArgs a) {
  constexpr int kMatrices = Pair ? 2 : 1,
                kAhead = Weights::kAhead < kMatrices ? 1 : Weights::kAhead / kMatrices;
  using Raw = typename Weights::Raw;
  PARE_SHARED_BYTES(shared);
  float* const sums = reinterpret_cast<float*>(shared);
  unsigned char* const inputs = shared + product_sum_bytes<Tiles, Pair>();
  const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp;
  const int share = a.warps_per_tile, together = kStageWarps / share;  // tiles of the block at a time
  const int column_part = warp % share, step = int(gridDim.x) * together;
  const int blocks = a.in.blocks;
  // Every warp makes the same number of turns, a multiple of kAhead, so that slot 0 of the ring starts a
  // tile.
  const int turns = (blocks + share * kAhead - 1) / (share * kAhead) * kAhead;

  typename Weights::Cursor cursor[kMatrices] = {};
  Raw ring[kAhead][kMatrices] = {};
  int load_tile = int(blockIdx.x) * together + warp / share, load_turn = 0, load_part = 0;
  const auto part_of = [&](int tile) {
    int p = 0;
    if (!Pair) {
      while (p + 1 < a.part_count && tile >= a.parts[p + 1].first_tile) ++p;
    }
    return p;
  };
  const auto aim = [&] {
    if (load_tile >= a.tiles) return;
    load_part = part_of(load_tile);
#pragma unroll
    for (int m = 0; m < kMatrices; ++m)
      cursor[m].set(a.parts[Pair ? m : load_part], load_tile - (Pair ? 0 : a.parts[load_part].first_tile));
  };
  const auto load = [&](int ahead) {
    const int block = column_part + (load_turn + ahead) * share;
    if (load_tile >= a.tiles || block >= blocks) return;
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) ring[ahead][m] = cursor[m].load(a.parts[Pair ? m : load_part], block);
  };
  const auto advance = [&] {
    load_turn += kAhead;
    if (load_turn < turns) return;
    load_turn = 0;
    load_tile += step;
    aim();
  };
  aim();
#pragma unroll
  for (int ahead = 0; ahead < kAhead; ++ahead) load(ahead);
  advance();
  ptx::release_successor();
  ptx::wait_for_predecessor();

  stage_rows<typename Weights::Half, Weights>(a.in, inputs);
  const size_t row_bytes = size_t(blocks) * kStageBlock * 2 + 16;
  const unsigned char*
      x[Tiles];  // of this lane's input rows; those that do not exist read zeros again and again
  int x_step[Tiles];
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile) {
    const int row = lane / 4 + 8 * tile;
    const bool is_there = row < a.in.rows;
    x[tile] = inputs + size_t(is_there ? row : a.in.rows) * row_bytes + lane % 4 * 32;
    x_step[tile] = is_there ? kStageBlock * 2 : 0;
  }

  int buffer = 0;
  for (int first = int(blockIdx.x) * together; first < a.tiles; first += step, buffer ^= 1) {
    const int tile = first + warp / share;
    const int p = part_of(tile < a.tiles ? tile : 0);
    float acc[kMatrices][Tiles][4] = {};
    for (int turn = 0; turn < turns; turn += kAhead) {
#pragma unroll
      for (int ahead = 0; ahead < kAhead; ++ahead) {
        const int block = column_part + (turn + ahead) * share;
        if (tile < a.tiles && block < blocks) {
          InputBlock block_inputs[Tiles];
#pragma unroll
          for (int t = 0; t < Tiles; ++t) {
            const uint4* at = reinterpret_cast<const uint4*>(x[t] + int64_t(block) * x_step[t]);
            block_inputs[t].half[0] = at[0];
            block_inputs[t].half[1] = at[1];
          }
#pragma unroll
          for (int m = 0; m < kMatrices; ++m)
            Weights::template consume<Tiles>(ring[ahead][m], a.parts[Pair ? m : p], block_inputs, acc[m]);
        }
        load(ahead);
      }
      advance();
    }

    // The shares of all warps meet. Two buffers take turns, so that one barrier is enough: whoever writes a
    // buffer again has passed the barrier behind its readers.
    float* const own = sums + (buffer * kMatrices * kStageWarps + warp) * kSumFloats<Tiles>;
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
#pragma unroll
      for (int t = 0; t < Tiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          own[m * kStageWarps * kSumFloats<Tiles> + (8 * t + lane % 4 * 2 + i % 2) * 17 + lane / 4 +
              i / 2 * 8] = acc[m][t][i];
      }
    }
    __syncthreads();
    const int outputs = together * a.in.rows * 16;
    for (int i = int(threadIdx.x); i < outputs; i += kStageThreads) {
      const int output = i % 16, row = i / 16 % a.in.rows, slot = i / 16 / a.in.rows;
      const int from_tile = first + slot;
      if (from_tile >= a.tiles) continue;
      const int from_part = part_of(from_tile);
      const ProductPart& part = a.parts[from_part];
      const int n = (from_tile - part.first_tile) * 16 + output;
      if (n >= part.out) continue;
      float value[kMatrices];
#pragma unroll
      for (int m = 0; m < kMatrices; ++m) {
        const float* at = sums + ((buffer * kMatrices + m) * kStageWarps + slot * share) * kSumFloats<Tiles> +
                          row * 17 + output;
        float sum = at[0];
        for (int w = 1; w < share; ++w) sum += at[w * kSumFloats<Tiles>];
        const float* bias = a.parts[Pair ? m : from_part].bias;
        value[m] = bias != nullptr ? sum + bias[n] : sum;
      }
      float* to = a.out + int64_t(row) * a.out_stride + part.first_column + n;
      float result = a.activation == Activation::identity ? value[0] : activated(a.activation, value[0]);
      if constexpr (Pair) result *= value[1];
      *to = a.accumulate ? *to + result : result;
    }
    if (a.finishes_heads) count_heads(a, first, together);
  }
}

// Launches the kernel of a kind for the rows of args; decode_product_dense.cu, decode_product_codes.cu.
void launch_dense_product(Context& context, const char* name, WeightKind kind, const ProductKernelArgs& args,
                          bool is_pair);
void launch_code_product(Context& context, const char* name, WeightKind kind, const ProductKernelArgs& args,
                         bool is_pair);

template <typename Weights>
void launch_product(Context& context, const char* name, const ProductKernelArgs& args, bool is_pair) {
  const int together = kStageWarps / args.warps_per_tile;
  const int groups = (args.tiles + together - 1) / together, most = 2 * context.multiprocessors();
  const LaunchShape shape{.grid = unsigned(groups < most ? groups : most),
                          .block = kStageThreads,
                          .shared_bytes = product_shared_bytes(args.in.rows, args.in.blocks, is_pair),
                          .is_dependent = true};
  if (args.in.rows > 8) {
    context.launch(
        name, is_pair ? decode_product_kernel<Weights, 2, true> : decode_product_kernel<Weights, 2, false>,
        shape, args);
  } else {
    context.launch(
        name, is_pair ? decode_product_kernel<Weights, 1, true> : decode_product_kernel<Weights, 1, false>,
        shape, args);
  }
}

}  // namespace pare::cuda
