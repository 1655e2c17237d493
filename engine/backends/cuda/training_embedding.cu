// embedding_backward without float atomics. Tokens are taken in chunks; within a chunk each token's rank by
// (id, token) is counted, which sorts it, and then one block per id and stripe of channels adds the tokens of
// that id in their order. The chunks follow each other on the stream: same bytes always, no host in between.
#include <algorithm>

#include "engine/backends/cuda/quads.h"
#include "engine/backends/cuda/training_class.h"

namespace pare::cuda {
namespace {

constexpr int kChunk = 2048;       // tokens: counting ranks costs kChunk comparisons per token
constexpr int kRankThreads = 128;  // 16 blocks per chunk: a batch of 8 chunks fills the device
constexpr int kStripeQuads = 64;   // 256 channels to a block, so that a frequent id has many blocks
constexpr int kSubsets = 4;        // of an id's tokens, added side by side
constexpr int kSumThreads = kStripeQuads * kSubsets;
constexpr int64_t kMostStripes = 65'535;  // of a grid's second dimension

// Of each chunk: sorted[rank] = id, order[rank] = place of the token. blockIdx.x: kRankThreads tokens of one
// chunk.
__global__ void __launch_bounds__(kRankThreads)
    rank_tokens_kernel(const int32_t* ids, int64_t tokens, int32_t* sorted, int32_t* order) {
  __shared__ int4 quads[kChunk / kQuad];
  auto* chunk_ids = reinterpret_cast<int32_t*>(quads);
  constexpr int kBlocks = kChunk / kRankThreads;
  const int64_t first = int64_t(blockIdx.x) / kBlocks * kChunk;
  const int count = int(tokens - first < kChunk ? tokens - first : kChunk);
  for (int i = int(threadIdx.x); i < kChunk; i += kRankThreads)
    chunk_ids[i] = i < count ? ids[first + i] : 0x7fffffff;  // nobody comes after it
  __syncthreads();
  const int own = int(blockIdx.x) % kBlocks * kRankThreads + int(threadIdx.x);
  if (own >= count) return;
  const int id = chunk_ids[own];
  int rank = 0;
  for (int i = 0; i < count; i += kQuad) {  // all threads read the same four: a broadcast
    const int4 four = quads[i / kQuad];
    // before `own` equal ids count, after it they do not
    rank += four.x < id || (four.x == id && i < own);
    rank += four.y < id || (four.y == id && i + 1 < own);
    rank += four.z < id || (four.z == id && i + 2 < own);
    rank += four.w < id || (four.w == id && i + 3 < own);
  }
  sorted[first + rank] = id;
  order[first + rank] = own;
}

// Arguments of one chunk: sorted, order and dout start at its first token.
struct Chunk {
  const int32_t* sorted;
  const int32_t* order;
  const float* dout;
  float* dtable;
  int64_t channels, dout_stride;
  float scale;
  int count;
};

// blockIdx.x: a rank; the first of its id does the work. blockIdx.y: a stripe.
template <bool Wide>
__global__ void __launch_bounds__(kSumThreads) add_tokens_kernel(Chunk a) {
  __shared__ double partial[kSubsets - 1][kQuad][kStripeQuads];
  const int rank = int(blockIdx.x);
  const int id = a.sorted[rank];
  if (rank > 0 && a.sorted[rank - 1] == id) return;  // the same for the whole block
  // The end of the run of equal ids: most runs are short, so strides that double, then bisection.
  int low = rank + 1, high = rank + 1;
  for (int stride = 1; high < a.count && a.sorted[high] == id; stride *= 2) low = high + 1, high += stride;
  high = high < a.count ? high : a.count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (a.sorted[middle] == id) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  const int lane = int(threadIdx.x) % kStripeQuads, subset = int(threadIdx.x) / kStripeQuads;
  const int64_t c = (int64_t(blockIdx.y) * kStripeQuads + lane) * kQuad;
  double sums[kQuad] = {};
  if (c < a.channels) {
#pragma unroll 4
    for (int i = rank + subset; i < low; i += kSubsets) {
      const Quad d = load_quad<Wide>(a.dout + int64_t(a.order[i]) * a.dout_stride, c, a.channels);
#pragma unroll
      for (int j = 0; j < kQuad; ++j) sums[j] += double(d.v[j]);
    }
  }
  if (low - rank > 1) {  // the same for the whole block
    if (subset > 0) {
#pragma unroll
      for (int j = 0; j < kQuad; ++j) partial[subset - 1][j][lane] = sums[j];
    }
    __syncthreads();
  }
  if (subset > 0 || c >= a.channels) return;
  float* row = a.dtable + int64_t(id) * a.channels;
  Quad table = load_quad<Wide>(row, c, a.channels);
#pragma unroll
  for (int j = 0; j < kQuad; ++j) {
    double sum = sums[j];
    if (low - rank > 1) {
      for (int s = 0; s < kSubsets - 1; ++s) sum += partial[s][j][lane];
    }
    table.v[j] = float(fma(double(a.scale), sum, double(table.v[j])));
  }
  store_quad<Wide>(row, c, a.channels, table);
}

}  // namespace

void CudaTraining::embedding_backward(const EmbeddingBackwardArgs& a) {
  auto* sorted = context_.scratch_of<int32_t>(2 * a.tokens);
  if (sorted == nullptr) return;
  int32_t* order = sorted + a.tokens;
  const int64_t chunks = (a.tokens + kChunk - 1) / kChunk;
  context_.launch("embedding_backward ranks", rank_tokens_kernel,
                  {.grid = blocks_for(chunks * (kChunk / kRankThreads), 1), .block = kRankThreads}, a.ids,
                  a.tokens, sorted, order);
  const bool is_wide = rows_are_wide(a.dout, a.dout_stride) && rows_are_wide(a.dtable, a.channels);
  const int64_t stripes = (a.channels + kStripeQuads * kQuad - 1) / (kStripeQuads * kQuad);
  PARE_ASSERT(stripes <= kMostStripes, "[embedding_backward] {} channels", a.channels);
  for (int64_t first = 0; first < a.tokens; first += kChunk) {
    const Chunk chunk{.sorted = sorted + first,
                      .order = order + first,
                      .dout = a.dout + first * a.dout_stride,
                      .dtable = a.dtable,
                      .channels = a.channels,
                      .dout_stride = a.dout_stride,
                      .scale = a.scale,
                      .count = int(std::min<int64_t>(kChunk, a.tokens - first))};
    context_.launch("embedding_backward", is_wide ? add_tokens_kernel<true> : add_tokens_kernel<false>,
                    {.grid = dim3(unsigned(chunk.count), unsigned(stripes)), .block = kSumThreads}, chunk);
  }
}

}  // namespace pare::cuda
