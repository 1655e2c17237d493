// Integer products of up to kInt8VectorTokens tokens: codes stream from memory once, four rows of weights per
// block, dp4a.
//
// Four rows share each load of the tokens' codes, which come from L1: with one row per load, eight tokens
// would ask L1 for eight times what memory delivers. At 16 tokens a block takes two rows, so that sums fit
// into registers. A team of lanes takes a segment, 16 bytes per lane and row; whole warps take the rows of
// one segment. What a team finds is an integer, so the split of a row over lanes and warps leaves no trace in
// the result; terms of segments meet in shared memory and are added in order.
#include "engine/backends/cuda/int8_kernels.h"

namespace pare::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kChunk = 16;  // bytes of a load

template <bool kNibbles>
constexpr int kColumnsOfChunk = kNibbles ? 2 * kChunk : kChunk;

__device__ __forceinline__ uint4 load_codes(const int8_t* from) {
  return __ldg(reinterpret_cast<const uint4*>(from));
}

__device__ __forceinline__ int32_t dot_words(const uint4& a, const uint4& b, int32_t sum) {
  sum = __dp4a(int(a.x), int(b.x), sum);
  sum = __dp4a(int(a.y), int(b.y), sum);
  sum = __dp4a(int(a.z), int(b.z), sum);
  return __dp4a(int(a.w), int(b.w), sum);
}

// sums[r][m] += chunk of row r times the codes of token m, `chunks` chunks from `chunk` on, `stride` apart.
template <int kRows, int kTokens, bool kNibbles>
__device__ __forceinline__ void add_chunks(const Int8Problem& p, const uint8_t* const (&rows)[kRows],
                                           const int (&tokens)[kTokens], int64_t chunk, int64_t end,
                                           int stride, int32_t (&sums)[kRows][kTokens]) {
  for (; chunk < end; chunk += stride) {
    uint4 w[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) w[r] = ptx::load_once(rows[r] + chunk * kChunk);
#pragma unroll
    for (int m = 0; m < kTokens; ++m) {
      const int8_t* x = p.x.codes + tokens[m] + chunk * kColumnsOfChunk<kNibbles>;
      const uint4 low = load_codes(x);
      if constexpr (kNibbles) {
        const uint4 high = load_codes(x + 16);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          constexpr uint32_t kMask = 0x0f0f0f0fu;
          const uint4 a = make_uint4(w[r].x & kMask, w[r].y & kMask, w[r].z & kMask, w[r].w & kMask);
          const uint4 b =
              make_uint4(w[r].x >> 4 & kMask, w[r].y >> 4 & kMask, w[r].z >> 4 & kMask, w[r].w >> 4 & kMask);
          sums[r][m] = dot_words(b, high, dot_words(a, low, sums[r][m]));
        }
      } else {
#pragma unroll
        for (int r = 0; r < kRows; ++r) sums[r][m] = dot_words(w[r], low, sums[r][m]);
      }
    }
  }
}

// Rows and tokens beyond the end repeat the last one; what they give is not stored.
template <int kRows, int kTokens>
struct Operands {
  const uint8_t* rows[kRows];
  int tokens[kTokens];  // offsets; half the registers of pointers

  __device__ explicit Operands(const Int8Problem& p) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t n = int64_t(blockIdx.x) * kRows + r;
      rows[r] = p.codes + (n < p.n ? n : p.n - 1) * p.row_bytes;
    }
#pragma unroll
    for (int m = 0; m < kTokens; ++m) tokens[m] = int((m < p.m ? m : p.m - 1) * p.segments.padded());
  }
};

// One segment: all threads of the block share it.
template <int kRows, int kTokens, bool kNibbles>
__global__ void __launch_bounds__(kThreads) int8_vector_kernel(Int8Problem p) {
  __shared__ int32_t partial[kWarps][kRows * kTokens];
  const Operands<kRows, kTokens> from(p);
  int32_t sums[kRows][kTokens] = {};
  const int64_t chunks = p.segments.padded() / kColumnsOfChunk<kNibbles>;
  add_chunks<kRows, kTokens, kNibbles>(p, from.rows, from.tokens, int(threadIdx.x), chunks, kThreads, sums);
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int m = 0; m < kTokens; ++m) {
      const int32_t sum = warp_sum(sums[r][m]);
      if (lane == 0) partial[warp][r * kTokens + m] = sum;
    }
  }
  __syncthreads();
  const int own = int(threadIdx.x);
  if (own >= kRows * kTokens) return;
  const int64_t n = int64_t(blockIdx.x) * kRows + own / kTokens, token = own % kTokens;
  if (n >= p.n || token >= p.m) return;
  int32_t dot = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) dot += partial[w][own];
  int8_store(p, token, n, __fadd_rn(0.0f, int8_term(p, p.x.rows[token], token, 0, n, dot)));
}

// Several segments, `team` lanes (a power of two) to each; in every round each team of the block takes one.
template <int kRows, int kTokens, bool kNibbles>
__global__ void __launch_bounds__(kThreads) int8_vector_segments_kernel(Int8Problem p, int team) {
  PARE_SHARED_BYTES(shared);
  auto* terms = reinterpret_cast<float*>(shared);  // [2][teams][kRows * kTokens]
  constexpr int kOutputs = kRows * kTokens;
  const Operands<kRows, kTokens> from(p);
  const int teams = kThreads / team, mine = int(threadIdx.x) / team, lane = int(threadIdx.x) % team;
  const int own = int(threadIdx.x);
  const bool has_output = own < kOutputs;
  float total = 0.0f;
  int side = 0;
  for (int64_t first = 0; first < p.segments.count; first += teams, side ^= 1) {
    float* round = terms + side * teams * kOutputs;
    const int64_t segment = first + mine;
    const bool is_real = segment < p.segments.count;
    int32_t sums[kRows][kTokens] = {};
    if (is_real) {
      constexpr int kChunksOfStep = kInt8Step / kColumnsOfChunk<kNibbles>;
      const Int8Steps steps = steps_of(p.segments, segment);
      add_chunks<kRows, kTokens, kNibbles>(p, from.rows, from.tokens, steps.begin * kChunksOfStep + lane,
                                           steps.end * kChunksOfStep, team, sums);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t n = int64_t(blockIdx.x) * kRows + r;
#pragma unroll
      for (int m = 0; m < kTokens; ++m) {
        int32_t sum = sums[r][m];
        for (int offset = team / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
        if (lane == (r * kTokens + m) % team && is_real && n < p.n && m < p.m)
          round[mine * kOutputs + r * kTokens + m] = int8_term(p, p.x.rows[m], m, segment, n, sum);
      }
    }
    // One barrier per round: the other side is written while this one is read.
    __syncthreads();
    if (!has_output) continue;
    const int64_t left = p.segments.count - first;
    const int count = left < teams ? int(left) : teams;
    const int64_t n = int64_t(blockIdx.x) * kRows + own / kTokens;
    if (n >= p.n || own % kTokens >= p.m) continue;
#pragma unroll 8
    for (int i = 0; i < count; ++i) total = __fadd_rn(total, round[i * kOutputs + own]);
  }
  const int64_t n = int64_t(blockIdx.x) * kRows + own / kTokens, token = own % kTokens;
  if (has_output && n < p.n && token < p.m) int8_store(p, token, n, total);
}

template <int kRows, int kTokens, bool kNibbles>
void launch_as(Context& context, const Int8Problem& p) {
  const unsigned grid = blocks_for(p.n, kRows);
  if (p.segments.count <= 1) {
    return context.launch("int8_vector", int8_vector_kernel<kRows, kTokens, kNibbles>,
                          {.grid = grid, .block = kThreads}, p);
  }
  // As many lanes as divide a group's chunks, at most a warp: no lane of a team idles.
  const int64_t chunks = p.segments.group_steps * (kInt8Step / kColumnsOfChunk<kNibbles>);
  int team = 1;
  while (team < kWarp && chunks % (2 * team) == 0) team *= 2;
  const size_t shared = size_t(2 * (kThreads / team) * kRows * kTokens) * sizeof(float);
  context.launch("int8_vector_segments", int8_vector_segments_kernel<kRows, kTokens, kNibbles>,
                 {.grid = grid, .block = kThreads, .shared_bytes = shared}, p, team);
}

template <bool kNibbles>
void launch_for(Context& context, const Int8Problem& p) {
  if (p.m == 1) return launch_as<4, 1, kNibbles>(context, p);
  if (p.m <= 4) return launch_as<4, 4, kNibbles>(context, p);
  if (p.m <= 8) return launch_as<4, 8, kNibbles>(context, p);
  launch_as<2, 16, kNibbles>(context, p);
}

}  // namespace

void launch_int8_vector(Context& context, const Int8Problem& p) {
  PARE_ASSERT(p.m <= kInt8VectorTokens && p.m * p.segments.padded() <= 0x7fffffff, "[int8] {} tokens of {}",
              p.m, p.segments.in);
  if (p.is_nibbles) return launch_for<true>(context, p);
  launch_for<false>(context, p);
}

}  // namespace pare::cuda
