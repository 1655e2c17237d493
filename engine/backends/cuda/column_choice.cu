// choose_kept: which weights of a block of columns survive. Selection over all rows finds the k-th lowest
// score by its bits, in three passes of at most 11, with counts of integers, so that neither the order of
// threads nor that of blocks matters; ties go by (row, column), as on the host.
#include <algorithm>

#include "engine/backends/cuda/columns_class.h"
#include "engine/backends/cuda/kernel.h"

namespace pare::cuda {
namespace {

constexpr int kBins = 2048;
constexpr int kPasses = 3;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

__host__ __device__ constexpr int shift_of(int pass) {
  return pass == 0 ? 21 : pass == 1 ? 10 : 0;
}
__host__ __device__ constexpr int bits_of(int pass) {
  return pass == 2 ? 10 : 11;
}

// What the passes have found: scores whose bits above the shift equal `prefix` hold the k-th lowest; `left`
// of them go.
struct Choice {
  uint32_t counts[kPasses][kBins];
  uint32_t prefix;
  uint32_t unused;
  uint64_t left;
};
// Behind it: how many scores of each row tie with the cut, later how many of rows before, u64 [rows].

// Scores are not negative: their order is that of their bits.
__device__ __forceinline__ uint32_t key_of(const ChooseKeptArgs& a, int64_t row, int64_t position) {
  const int64_t index = row * a.columns + position;
  if (a.keep[index] == 0) return 0;
  const float ratio = __fdiv_rn(a.work[index], a.upper[position * a.columns + position]);
  return __float_as_uint(__fmul_rn(ratio, ratio));
}

__global__ void start_kernel(Choice* choice, uint64_t removed) {
  for (int i = int(threadIdx.x); i < kPasses * kBins; i += int(blockDim.x)) (&choice->counts[0][0])[i] = 0;
  if (threadIdx.x != 0) return;
  choice->prefix = 0;
  choice->left = removed;
}

// A warp per row at a time.
__global__ void count_kernel(ChooseKeptArgs a, Choice* choice, int pass) {
  __shared__ uint32_t counts[kBins];
  for (int i = int(threadIdx.x); i < kBins; i += kThreads) counts[i] = 0;
  __syncthreads();
  const int lane = int(threadIdx.x) % kWarp, shift = shift_of(pass), bits = bits_of(pass);
  const uint32_t prefix = choice->prefix;
  for (int64_t row = int64_t(blockIdx.x) * kWarps + int(threadIdx.x) / kWarp; row < a.rows;
       row += int64_t(gridDim.x) * kWarps) {
    for (int64_t position = a.begin + lane; position < a.end; position += kWarp) {
      const uint32_t key = key_of(a, row, position);
      if (pass == 0 || key >> (shift + bits) == prefix)
        atomicAdd(&counts[key >> shift & ((1u << bits) - 1u)], 1u);
    }
  }
  __syncthreads();
  for (int i = int(threadIdx.x); i < kBins; i += kThreads)
    if (counts[i] != 0) atomicAdd(&choice->counts[pass][i], counts[i]);
}

// The bin that holds the score number `left` (from 1). One block; each thread owns neighbouring bins.
__global__ void pick_kernel(Choice* choice, int pass) {
  __shared__ uint64_t sums[kThreads];
  constexpr int kOwn = kBins / kThreads;
  const int first = int(threadIdx.x) * kOwn;
  uint64_t own = 0;
  for (int i = 0; i < kOwn; ++i) own += choice->counts[pass][first + i];
  sums[threadIdx.x] = own;
  const uint64_t left = choice->left;
  __syncthreads();
  uint64_t before = 0;
  for (int i = 0; i < int(threadIdx.x); ++i) before += sums[i];
  if (before < left && left <= before + own) {  // exactly one thread
    for (int i = 0; i < kOwn; ++i) {
      const uint64_t count = choice->counts[pass][first + i];
      if (left <= before + count) {
        choice->prefix = choice->prefix << bits_of(pass) | uint32_t(first + i);
        choice->left = left - before;
        break;
      }
      before += count;
    }
  }
}

__global__ void count_ties_kernel(ChooseKeptArgs a, const Choice* choice, uint64_t* ties) {
  const int64_t row = int64_t(blockIdx.x) * kWarps + int(threadIdx.x) / kWarp;
  if (row >= a.rows) return;
  const int lane = int(threadIdx.x) % kWarp;
  uint32_t found = 0;
  for (int64_t position = a.begin + lane; position < a.end; position += kWarp)
    found += key_of(a, row, position) == choice->prefix ? 1u : 0u;
  found = warp_sum(found);
  if (lane == 0) ties[row] = found;
}

// ties[r] becomes the sum of those before. One block; each thread owns neighbouring rows.
__global__ void sum_before_kernel(uint64_t* ties, int64_t rows) {
  __shared__ uint64_t sums[kThreads];
  const int64_t own = (rows + kThreads - 1) / kThreads, first = int64_t(threadIdx.x) * own;
  uint64_t sum = 0;
  for (int64_t row = first; row < first + own && row < rows; ++row) sum += ties[row];
  sums[threadIdx.x] = sum;
  __syncthreads();
  uint64_t before = 0;
  for (int i = 0; i < int(threadIdx.x); ++i) before += sums[i];
  for (int64_t row = first; row < first + own && row < rows; ++row) {
    const uint64_t count = ties[row];
    ties[row] = before;
    before += count;
  }
}

__global__ void mark_kernel(ChooseKeptArgs a, const Choice* choice, const uint64_t* ties) {
  const int64_t row = int64_t(blockIdx.x) * kWarps + int(threadIdx.x) / kWarp;
  if (row >= a.rows) return;
  const int lane = int(threadIdx.x) % kWarp;
  const uint32_t cut = choice->prefix;
  const uint64_t left = choice->left;
  uint64_t before = ties[row];
  for (int64_t first = a.begin; first < a.end; first += kWarp) {
    const int64_t position = first + lane;
    const uint32_t key = position < a.end ? key_of(a, row, position) : 0xffffffffu;
    const unsigned equal = __ballot_sync(kAllLanes, key == cut);
    const uint64_t rank = before + uint64_t(__popc(equal & ((1u << lane) - 1u)));
    before += uint64_t(__popc(equal));
    if (position < a.end)
      a.keep[row * a.columns + position] = key > cut || (key == cut && rank >= left) ? 1 : 0;
  }
}

// In each row: a score goes when fewer than `removed` are lower, or equal and further left.
__global__ void mark_rows_kernel(ChooseKeptArgs a) {
  constexpr int kKeys = int(kSweepColumns);
  __shared__ uint32_t keys[kWarps][kKeys];
  const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp, count = int(a.end - a.begin);
  const int64_t row = int64_t(blockIdx.x) * kWarps + warp;
  if (row >= a.rows) return;
  for (int i = lane; i < count; i += kWarp) keys[warp][i] = key_of(a, row, a.begin + i);
  __syncwarp();
  for (int i = lane; i < count; i += kWarp) {
    const uint32_t mine = keys[warp][i];
    int lower = 0;
    for (int j = 0; j < count; ++j) lower += keys[warp][j] < mine || (keys[warp][j] == mine && j < i) ? 1 : 0;
    a.keep[row * a.columns + a.begin + i] = lower >= int(a.removed) ? 1 : 0;
  }
}

__global__ void keep_all_kernel(ChooseKeptArgs a) {
  const int64_t row = int64_t(blockIdx.x) * kWarps + int(threadIdx.x) / kWarp;
  if (row >= a.rows) return;
  for (int64_t position = a.begin + int(threadIdx.x) % kWarp; position < a.end; position += kWarp)
    a.keep[row * a.columns + position] = 1;
}

}  // namespace

size_t CudaColumnSolver::choose_kept_workspace_bytes(int64_t rows) const {
  return sizeof(Choice) + size_t(rows) * sizeof(uint64_t);
}

void CudaColumnSolver::choose_kept(const ChooseKeptArgs& a) {
  PARE_ASSERT(a.end - a.begin <= kSweepColumns, "[cuda] choice among {} columns", a.end - a.begin);
  const LaunchShape by_row{.grid = blocks_for(a.rows, kWarps), .block = kThreads};
  if (a.removed <= 0) return context_.launch("choose_kept keep_all", keep_all_kernel, by_row, a);
  if (a.is_per_row) return context_.launch("choose_kept rows", mark_rows_kernel, by_row, a);
  Choice* choice = static_cast<Choice*>(a.workspace);
  uint64_t* ties = reinterpret_cast<uint64_t*>(choice + 1);
  const LaunchShape one{.grid = 1, .block = kThreads};
  // Few blocks, since each adds its 2048 counts to the whole.
  const LaunchShape counting{
      .grid = unsigned(std::min<int64_t>((a.rows + kWarps - 1) / kWarps, 2 * context_.multiprocessors())),
      .block = kThreads};
  context_.launch("choose_kept start", start_kernel, one, choice, uint64_t(a.removed));
  for (int pass = 0; pass < kPasses; ++pass) {
    context_.launch("choose_kept count", count_kernel, counting, a, choice, pass);
    context_.launch("choose_kept pick", pick_kernel, one, choice, pass);
  }
  context_.launch("choose_kept ties", count_ties_kernel, by_row, a, choice, ties);
  context_.launch("choose_kept before", sum_before_kernel, one, ties, a.rows);
  context_.launch("choose_kept mark", mark_kernel, by_row, a, choice, ties);
}

}  // namespace pare::cuda
