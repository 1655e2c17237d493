// Integer products of many tokens on tensor cores: mma m16n8k32 of signed bytes, int32 sums, the scales in
// the epilogue.
//
// A block of four warps (two by two) makes a tile of 128 tokens x 128 outputs, 64 x 64 per warp: a step of 32
// columns then reads 4 KiB of shared memory per warp for 32 instructions, which is what shared memory
// delivers in the time that they take. Where scales belong to groups, the float totals take registers of
// their own and a tile has 64 outputs; few tokens or few tiles take smaller ones, so that there is a block
// for every multiprocessor. Four stages of 64 columns are in flight (cp.async); the 16-byte pieces of a row
// are permuted by its number, so that ldmatrix finds its eight rows in eight different bank groups.
#include "engine/backends/cuda/int8_kernels.h"

namespace pare::cuda {
namespace {

constexpr int kStages = 4;
constexpr int kDepth = 64;  // columns of a stage: two steps
constexpr int kStepsOfStage = kDepth / kInt8Step;
constexpr int kWarpsAcross = 2;  // in both directions
constexpr int kThreads = kWarpsAcross * kWarpsAcross * kWarp;

// Fragments of 16 tokens and of 8 outputs per warp.
template <int kTokenFragments, int kOutputFragments, bool kNibbles, bool kSegments>
struct Tile {
  static constexpr int kTokens = 16 * kTokenFragments * kWarpsAcross;
  static constexpr int kOutputs = 8 * kOutputFragments * kWarpsAcross;
  static constexpr int kWeightBytes = kNibbles ? kDepth / 2 : kDepth;  // of a row in a stage
  static constexpr int kStageBytes = kTokens * kDepth + kOutputs * kWeightBytes;
};

// Where piece `chunk` of 16 bytes of a row stands. Rows of bytes have four pieces, two rows share the 32
// banks; rows of nibbles have two pieces, four rows share them.
__device__ __forceinline__ int byte_place(int row, int chunk) {
  return row * kDepth + ((chunk ^ (row >> 1 & 3)) * 16);
}
__device__ __forceinline__ int nibble_place(int row, int chunk) {
  return row * (kDepth / 2) + ((chunk ^ (row >> 2 & 1)) * 16);
}

template <typename T, bool kNibbles>
__device__ __forceinline__ void load_stage(const Int8Problem& p, unsigned char* stage, int64_t first_token,
                                           int64_t first_output, int64_t k) {
  constexpr int kChunks = kDepth / 16;
  const int thread = int(threadIdx.x);
#pragma unroll
  for (int i = thread; i < T::kTokens * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool is_inside = first_token + row < p.m;
    const int8_t* from =
        p.x.codes + (is_inside ? first_token + row : 0) * p.segments.padded() + k + chunk * 16;
    ptx::cp_async_16(stage + byte_place(row, chunk), from, is_inside ? 16 : 0);
  }
  unsigned char* weights = stage + T::kTokens * kDepth;
  constexpr int kWeightChunks = T::kWeightBytes / 16;
#pragma unroll
  for (int i = thread; i < T::kOutputs * kWeightChunks; i += kThreads) {
    const int row = i / kWeightChunks, chunk = i % kWeightChunks;
    const bool is_inside = first_output + row < p.n;
    const uint8_t* from =
        p.codes + (is_inside ? first_output + row : 0) * p.row_bytes + (kNibbles ? k / 2 : k) + chunk * 16;
    ptx::cp_async_16(weights + (kNibbles ? nibble_place(row, chunk) : byte_place(row, chunk)), from,
                     is_inside ? 16 : 0);
  }
}

template <int kTokenFragments, int kOutputFragments, bool kNibbles, bool kSegments>
__global__ void __launch_bounds__(kThreads) int8_mma_kernel(Int8Problem p, unsigned token_tiles) {
  using T = Tile<kTokenFragments, kOutputFragments, kNibbles, kSegments>;
  PARE_SHARED_BYTES(shared);
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  const int group = lane / 4, quarter = lane % 4;
  const int token_base = warp / kWarpsAcross * 16 * kTokenFragments;
  const int output_base = warp % kWarpsAcross * 8 * kOutputFragments;
  // Blocks that follow one another share weights, which are the larger operand of a decoding batch.
  const int64_t first_token = int64_t(blockIdx.x % token_tiles) * T::kTokens;
  const int64_t first_output = int64_t(blockIdx.x / token_tiles) * T::kOutputs;
  const int64_t stages = p.segments.steps / kStepsOfStage;

  int32_t sums[kTokenFragments][kOutputFragments][4] = {};
  [[maybe_unused]] float totals[kSegments ? kTokenFragments : 1][kSegments ? kOutputFragments : 1][4] = {};
  [[maybe_unused]] int64_t segment = 0, segment_end = kSegments ? steps_of(p.segments, 0).end : 0;

  // Adds the segment's terms to the totals and starts the next one.
  [[maybe_unused]] const auto end_segment = [&] {
    if constexpr (kSegments) {
#pragma unroll
      for (int i = 0; i < kTokenFragments; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int64_t token = first_token + token_base + 16 * i + group + 8 * half;
          if (token >= p.m) continue;
          const RoundedRow row = p.x.rows[token];
#pragma unroll
          for (int j = 0; j < kOutputFragments; ++j) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              const int64_t n = first_output + output_base + 8 * j + 2 * quarter + c;
              if (n >= p.n) continue;
              float& total = totals[i][j][2 * half + c];
              total = __fadd_rn(total, int8_term(p, row, token, segment, n, sums[i][j][2 * half + c]));
            }
          }
        }
#pragma unroll
        for (int j = 0; j < kOutputFragments; ++j) {
#pragma unroll
          for (int r = 0; r < 4; ++r) sums[i][j][r] = 0;
        }
      }
      if (++segment < p.segments.count) segment_end = steps_of(p.segments, segment).end;
    }
  };

#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < stages)
      load_stage<T, kNibbles>(p, shared + s * T::kStageBytes, first_token, first_output, int64_t(s) * kDepth);
    ptx::cp_async_commit();
  }
  for (int64_t s = 0; s < stages; ++s) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();  // the stage is there, and the one before has been read by all
    const int64_t next = s + kStages - 1;
    if (next < stages)
      load_stage<T, kNibbles>(p, shared + int(next % kStages) * T::kStageBytes, first_token, first_output,
                              next * kDepth);
    ptx::cp_async_commit();
    const unsigned char* stage = shared + int(s % kStages) * T::kStageBytes;
    const unsigned char* weights = stage + T::kTokens * kDepth;
#pragma unroll
    for (int step = 0; step < kStepsOfStage; ++step) {
      uint32_t a[kTokenFragments][4];
#pragma unroll
      for (int i = 0; i < kTokenFragments; ++i) {
        // matrices: tokens 0-7 and 8-15 of the first 16 columns, then of the other 16
        const int row = token_base + 16 * i + lane % 16;
        ptx::ldmatrix_x4(a[i], stage + byte_place(row, 2 * step + lane / 16));
      }
      uint32_t b[kOutputFragments][2];
      if constexpr (kNibbles) {
#pragma unroll
        for (int j = 0; j < kOutputFragments; ++j) {
          const int row = output_base + 8 * j + group;
          const uint32_t word =
              *reinterpret_cast<const uint32_t*>(weights + nibble_place(row, step) + 4 * quarter);
          b[j][0] = word & 0x0f0f0f0fu;
          b[j][1] = word >> 4 & 0x0f0f0f0fu;
        }
      } else {
#pragma unroll
        for (int j = 0; j < kOutputFragments; j += 2) {
          // matrices: outputs 0-7 of both halves of the columns, then outputs 8-15
          const int row = output_base + 8 * j + lane % 8 + lane / 16 * 8;
          uint32_t four[4];
          ptx::ldmatrix_x4(four, weights + byte_place(row, 2 * step + lane / 8 % 2));
          b[j][0] = four[0], b[j][1] = four[1], b[j + 1][0] = four[2], b[j + 1][1] = four[3];
        }
      }
#pragma unroll
      for (int i = 0; i < kTokenFragments; ++i) {
#pragma unroll
        for (int j = 0; j < kOutputFragments; ++j) ptx::mma_s8(sums[i][j], a[i], b[j]);
      }
      if constexpr (kSegments) {
        if (s * kStepsOfStage + step + 1 == segment_end) end_segment();
      }
    }
  }
  ptx::cp_async_wait<0>();

#pragma unroll
  for (int i = 0; i < kTokenFragments; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t token = first_token + token_base + 16 * i + group + 8 * half;
      if (token >= p.m) continue;
      [[maybe_unused]] const RoundedRow row = p.x.rows[token];
#pragma unroll
      for (int j = 0; j < kOutputFragments; ++j) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int64_t n = first_output + output_base + 8 * j + 2 * quarter + c;
          if (n >= p.n) continue;
          if constexpr (kSegments) {
            int8_store(p, token, n, totals[i][j][2 * half + c]);
          } else {
            const float term = int8_term(p, row, token, 0, n, sums[i][j][2 * half + c]);
            int8_store(p, token, n, __fadd_rn(0.0f, term));
          }
        }
      }
    }
  }
}

template <int kTokenFragments, int kOutputFragments, bool kNibbles, bool kSegments>
void launch_tile(Context& context, const Int8Problem& p) {
  using T = Tile<kTokenFragments, kOutputFragments, kNibbles, kSegments>;
  const unsigned token_tiles = blocks_for(p.m, T::kTokens);
  const LaunchShape shape{.grid = blocks_for(int64_t(token_tiles) * blocks_for(p.n, T::kOutputs), 1),
                          .block = kThreads,
                          .shared_bytes = size_t(kStages) * T::kStageBytes};
  context.launch("int8_mma", int8_mma_kernel<kTokenFragments, kOutputFragments, kNibbles, kSegments>, shape,
                 p, token_tiles);
}

template <bool kNibbles, bool kSegments>
void launch_for(Context& context, const Int8Problem& p) {
  const auto tiles = [&](int64_t tokens, int64_t outputs) {
    return (p.m + tokens - 1) / tokens * ((p.n + outputs - 1) / outputs);
  };
  if (p.m > 64 && tiles(128, kSegments ? 64 : 128) >= context.multiprocessors())
    return launch_tile < 4, kSegments ? 4 : 8, kNibbles, kSegments > (context, p);
  if (tiles(64, 64) >= context.multiprocessors()) return launch_tile<2, 4, kNibbles, kSegments>(context, p);
  launch_tile<2, 2, kNibbles, kSegments>(context, p);
}

}  // namespace

void launch_int8_mma(Context& context, const Int8Problem& p) {
  const bool has_segments = p.segments.count > 1;
  if (p.is_nibbles)
    return has_segments ? launch_for<true, true>(context, p) : launch_for<true, false>(context, p);
  has_segments ? launch_for<false, true>(context, p) : launch_for<false, false>(context, p);
}

}  // namespace pare::cuda
