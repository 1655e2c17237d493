// 2:4 products on sparse tensor cores: mma.sp m16n8k32, weights (rows) times tokens (columns), so that codes
// become operands in registers. Tokens are rounded to 16 bits first, in the order of fragments: 16 bytes per
// lane and step.
//
// Up to 16 tokens: the weights are the whole cost. Eight warps share the columns of one tile of 16 rows, each
// lane loads its own fragments from memory (16 bytes, in the order in which they are used, no shared memory),
// and sums meet at the end: 256 blocks for 4096 rows, 16 warps per multiprocessor of a large chip.
// More tokens: tiles of 128 rows x 128 tokens (with codes 64), 64 x 64 per warp, so that a step of 32 columns
// reads 6 KiB of shared memory per warp for 32 instructions; small problems take tiles of 64 x 64. Three
// stages of 64 columns are in flight.
#include "engine/backends/cuda/sparse_of_four.h"

namespace pare::cuda {
namespace {

template <SparseStored kStored>
constexpr bool kIsHalf = kStored == SparseStored::f16;

template <bool kHalf>
__device__ __forceinline__ uint32_t pack_pair(float low, float high) {
  if constexpr (kHalf) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    return pack_bf16(low, high);
  }
}

// x [m, k] to 16-bit words [m, steps, 4, 4]: lane t's b0 .. b3 are columns 2 t + 8 i and the next. One thread
// makes 16 bytes.
template <bool kHalf>
__global__ void __launch_bounds__(256) round_tokens_kernel(const float* x, int64_t x_stride, int64_t k,
                                                           int64_t steps, int64_t pieces, uint4* out) {
  const int64_t piece = int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (piece >= pieces) return;
  const int64_t token = piece / (steps * 4), within = piece % (steps * 4);
  const int64_t column = within / 4 * 32 + within % 4 * 2;
  const float* row = x + token * x_stride;
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t c = column + 8 * i;
    words[i] = pack_pair<kHalf>(c < k ? row[c] : 0.0f, c + 1 < k ? row[c + 1] : 0.0f);
  }
  out[piece] = make_uint4(words[0], words[1], words[2], words[3]);
}

// Fragment a0 .. a3 of a half of a tile.
template <SparseStored kStored>
__device__ __forceinline__ void make_fragment(const SparseProblem& p, const OfFourTile<kStored>& tile,
                                              int half, int64_t row, int64_t column, OfFourGrids& grids,
                                              uint32_t (&a)[4]) {
  if constexpr (kIsCode<kStored>) {
    const int quarter = int(threadIdx.x) % 4;
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      grids.seek(p, row, column + 32 * half + 16 * (pair / 2) + 4 * quarter);
      const float2 w = tile.pair(half, pair);
      a[pair] = pack_bf16(grids.rows[pair % 2].weight(w.x), grids.rows[pair % 2].weight(w.y));
    }
  } else {
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) a[pair] = tile.values[half][pair];
  }
}

// Words of the first half come from lanes 0 and 1 of a quad, those of the second from 2 and 3.
template <SparseStored kStored>
__device__ __forceinline__ void multiply(int half, float (&d)[4], const uint32_t (&a)[4], const uint4& b4,
                                         uint32_t places) {
  const uint32_t b[4] = {b4.x, b4.y, b4.z, b4.w};
  if constexpr (kIsHalf<kStored>) {
    half == 0 ? ptx::mma_sparse_f16<0>(d, a, b, places) : ptx::mma_sparse_f16<1>(d, a, b, places);
  } else {
    half == 0 ? ptx::mma_sparse_bf16<0>(d, a, b, places) : ptx::mma_sparse_bf16<1>(d, a, b, places);
  }
}

constexpr int kStreamWarps = 8;

template <SparseStored kStored, int kFragments>
__global__ void __launch_bounds__(kStreamWarps* kWarp)
    of_four_stream_kernel(SparseProblem p, const uint8_t* words, const uint4* tokens) {
  __shared__ float partial[kStreamWarps][kFragments][kWarp][4];
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  const int group = lane / 4, quarter = lane % 4;
  const int64_t row_tile = blockIdx.x, row = row_tile * kOfFourRows + group;
  const int64_t column_tiles = (p.k + kOfFourColumns - 1) / kOfFourColumns;
  const uint4* x[kFragments];
#pragma unroll
  for (int f = 0; f < kFragments; ++f) {
    const int64_t token = 8 * f + group;
    x[f] = tokens + (token < p.m ? token : p.m - 1) * column_tiles * 8 + quarter;
  }
  float sums[kFragments][4] = {};
  OfFourGrids grids;
#pragma unroll 2
  for (int64_t tile = warp; tile < column_tiles; tile += kStreamWarps) {
    const int64_t at = row_tile * column_tiles + tile;
    OfFourTile<kStored> held;
    held.load(
        p.codes + at * OfFourTile<kStored>::kValueBytes, words + at * kOfFourPlaceBytes,
        [](const uint8_t* from) { return ptx::load_once(from); },
        [](const uint8_t* from) { return __ldg(reinterpret_cast<const uint2*>(from)); },
        [](const uint8_t* from) { return __ldg(reinterpret_cast<const uint32_t*>(from)); });
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t a[4];
      make_fragment<kStored>(p, held, half, row, tile * kOfFourColumns, grids, a);
#pragma unroll
      for (int f = 0; f < kFragments; ++f)
        multiply<kStored>(half, sums[f], a, __ldg(x[f] + (tile * 2 + half) * 4), held.places);
    }
  }
#pragma unroll
  for (int f = 0; f < kFragments; ++f) {
#pragma unroll
    for (int r = 0; r < 4; ++r) partial[warp][f][lane][r] = sums[f][r];
  }
  __syncthreads();
  for (int i = int(threadIdx.x); i < kFragments * kWarp * 4; i += kStreamWarps * kWarp) {
    // neighbours in i are neighbours in out
    const int n_in = i % 16, token_in = i / 16 % 8, f = i / 128;
    const int64_t n = row_tile * kOfFourRows + n_in, token = 8 * f + token_in;
    if (n >= p.n || token >= p.m) continue;
    const int owner = n_in % 8 * 4 + token_in / 2, r = n_in / 8 * 2 + token_in % 2;
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < kStreamWarps; ++w) total += partial[w][f][owner][r];
    sparse_store(p, token, n, total);
  }
}

constexpr int kStages = 3;
constexpr int kTileThreads = 4 * kWarp;

// Fragments of 16 rows and of 8 tokens per warp; two by two warps.
template <SparseStored kStored, int kRowFragments, int kTokenFragments>
struct Tile {
  static constexpr int kRowTiles = 2 * kRowFragments;
  static constexpr int kTokens = 2 * 8 * kTokenFragments;
  static constexpr int kValueBytes = OfFourTile<kStored>::kValueBytes;
  static constexpr int kWeightBytes = kRowTiles * (kValueBytes + int(kOfFourPlaceBytes));
  static constexpr int kTokenBytes = int(kOfFourColumns) * 2;
  static constexpr int kStageBytes = kWeightBytes + kTokens * kTokenBytes;
};

// 16-byte piece `piece` (4 half + t) of a token's 128 bytes: odd tokens have their halves exchanged, so that
// eight lanes of a load reach eight different bank groups.
__device__ __forceinline__ int token_place(int token, int piece) {
  return token * 128 + (piece ^ (token & 1) * 4) * 16;
}

template <SparseStored kStored, int kRowFragments, int kTokenFragments>
__global__ void __launch_bounds__(kTileThreads)
    of_four_tile_kernel(SparseProblem p, const uint8_t* words, const uint4* tokens, unsigned token_tiles) {
  using T = Tile<kStored, kRowFragments, kTokenFragments>;
  PARE_SHARED_BYTES(shared);
  const int thread = int(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const int group = lane / 4, quarter = lane % 4;
  const int64_t column_tiles = (p.k + kOfFourColumns - 1) / kOfFourColumns;
  const int64_t row_tiles = (p.n + kOfFourRows - 1) / kOfFourRows;
  const int64_t first_tile = int64_t(blockIdx.x / token_tiles) * T::kRowTiles;
  const int64_t first_token = int64_t(blockIdx.x % token_tiles) * T::kTokens;
  const int tile_base = warp / 2 * kRowFragments, token_base = warp % 2 * 8 * kTokenFragments;

  // Tiles and tokens beyond the end repeat the last; their results are not stored.
  const auto load_stage = [&](int slot, int64_t column_tile) {
    unsigned char* stage = shared + slot * T::kStageBytes;
    constexpr int kPieces = T::kValueBytes / 16, kWordPieces = int(kOfFourPlaceBytes) / 16;
    for (int i = thread; i < T::kRowTiles * (kPieces + kWordPieces); i += kTileThreads) {
      const int tile = i / (kPieces + kWordPieces), piece = i % (kPieces + kWordPieces);
      const int64_t row_tile = first_tile + tile < row_tiles ? first_tile + tile : row_tiles - 1;
      const int64_t at = row_tile * column_tiles + column_tile;
      const uint8_t* from = piece < kPieces ? p.codes + at * T::kValueBytes + piece * 16
                                            : words + at * kOfFourPlaceBytes + (piece - kPieces) * 16;
      ptx::cp_async_16(stage + i * 16, from);
    }
    for (int i = thread; i < T::kTokens * 8; i += kTileThreads) {
      const int token = i / 8, piece = i % 8;
      const int64_t source = first_token + token < p.m ? first_token + token : p.m - 1;
      ptx::cp_async_16(stage + T::kWeightBytes + token_place(token, piece),
                       tokens + (source * column_tiles + column_tile) * 8 + piece);
    }
  };

  float sums[kRowFragments][kTokenFragments][4] = {};
  OfFourGrids grids[kRowFragments];
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < column_tiles) load_stage(s, s);
    ptx::cp_async_commit();
  }
  for (int64_t s = 0; s < column_tiles; ++s) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();
    if (s + kStages - 1 < column_tiles) load_stage(int((s + kStages - 1) % kStages), s + kStages - 1);
    ptx::cp_async_commit();
    const unsigned char* stage = shared + int(s % kStages) * T::kStageBytes;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint4 b[kTokenFragments];
#pragma unroll
      for (int f = 0; f < kTokenFragments; ++f) {
        const int token = token_base + 8 * f + group;
        b[f] =
            *reinterpret_cast<const uint4*>(stage + T::kWeightBytes + token_place(token, 4 * half + quarter));
      }
#pragma unroll
      for (int i = 0; i < kRowFragments; ++i) {
        const unsigned char* tile = stage + (tile_base + i) * (T::kValueBytes + int(kOfFourPlaceBytes));
        OfFourTile<kStored> held;  // what the other half loads is not used and goes away
        held.load(
            tile, tile + T::kValueBytes,
            [](const uint8_t* from) { return *reinterpret_cast<const uint4*>(from); },
            [](const uint8_t* from) { return *reinterpret_cast<const uint2*>(from); },
            [](const uint8_t* from) { return *reinterpret_cast<const uint32_t*>(from); });
        uint32_t a[4];
        make_fragment<kStored>(p, held, half, (first_tile + tile_base + i) * kOfFourRows + group,
                               s * kOfFourColumns, grids[i], a);
#pragma unroll
        for (int f = 0; f < kTokenFragments; ++f) multiply<kStored>(half, sums[i][f], a, b[f], held.places);
      }
    }
  }
  ptx::cp_async_wait<0>();
#pragma unroll
  for (int i = 0; i < kRowFragments; ++i) {
#pragma unroll
    for (int f = 0; f < kTokenFragments; ++f) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int64_t n = (first_tile + tile_base + i) * kOfFourRows + group + 8 * (r / 2);
        const int64_t token = first_token + token_base + 8 * f + 2 * quarter + r % 2;
        if (n < p.n && token < p.m) sparse_store(p, token, n, sums[i][f][r]);
      }
    }
  }
}

template <SparseStored kStored, int kRowFragments, int kTokenFragments>
void launch_tile(Context& context, const SparseProblem& p, const uint8_t* words, const uint4* tokens) {
  using T = Tile<kStored, kRowFragments, kTokenFragments>;
  const unsigned token_tiles = blocks_for(p.m, T::kTokens);
  const int64_t blocks = int64_t(token_tiles) * blocks_for(p.n, T::kRowTiles * kOfFourRows);
  context.launch("sparse_of_four_tile", of_four_tile_kernel<kStored, kRowFragments, kTokenFragments>,
                 {.grid = blocks_for(blocks, 1),
                  .block = kTileThreads,
                  .shared_bytes = size_t(kStages) * T::kStageBytes},
                 p, words, tokens, token_tiles);
}

template <SparseStored kStored>
void launch_for(Context& context, const SparseProblem& p, uint4* tokens) {
  const int64_t column_tiles = (p.k + kOfFourColumns - 1) / kOfFourColumns;
  const int64_t row_tiles = (p.n + kOfFourRows - 1) / kOfFourRows, pieces = p.m * column_tiles * 8;
  const uint8_t* words = p.codes + row_tiles * column_tiles * of_four_value_bytes(kStored);
  context.launch("sparse_round_tokens", round_tokens_kernel<kIsHalf<kStored>>,
                 {.grid = blocks_for(pieces, 256), .block = 256}, p.x, p.x_stride, p.k, 2 * column_tiles,
                 pieces, tokens);
  if (p.m <= kSparseVectorTokens) {
    const LaunchShape shape{.grid = blocks_for(row_tiles, 1), .block = kStreamWarps * kWarp};
    return context.launch("sparse_of_four_stream",
                          p.m <= 8 ? of_four_stream_kernel<kStored, 1> : of_four_stream_kernel<kStored, 2>,
                          shape, p, words, static_cast<const uint4*>(tokens));
  }
  // Codes need registers for scales: half as many tokens.
  constexpr int kWide = kIsCode<kStored> ? 4 : 8, kTokens = 16 * kWide;
  const int64_t large = (p.m + kTokens - 1) / kTokens * ((p.n + 127) / 128);
  if (p.m > 64 && large >= context.multiprocessors())
    return launch_tile<kStored, 4, kWide>(context, p, words, tokens);
  launch_tile<kStored, 2, 4>(context, p, words, tokens);
}

}  // namespace

size_t of_four_mma_workspace_bytes(int64_t m, int64_t k) {
  return size_t(m * ((k + kOfFourColumns - 1) / kOfFourColumns)) * kOfFourColumns * 2;
}

void launch_of_four_mma(Context& context, const SparseForm& form, const SparseProblem& p, void* workspace) {
  auto* tokens = static_cast<uint4*>(workspace);
  if (form.stored == SparseStored::bf16) return launch_for<SparseStored::bf16>(context, p, tokens);
  if (form.stored == SparseStored::f16) return launch_for<SparseStored::f16>(context, p, tokens);
  if (form.stored == SparseStored::byte) return launch_for<SparseStored::byte>(context, p, tokens);
  launch_for<SparseStored::nibble>(context, p, tokens);
}

}  // namespace pare::cuda
