// The lowest scores of a whole matrix. Passes of 11, 11 and 10 bits count keys in shared memory (four copies
// of the bins, since equal keys wait for one another) and add them to global bins; values of 16 bits without
// norms have nothing in the last 10, so they need two. Then ties are counted per row, numbered through the
// rows, and every row writes its bits. Counts are integers, so the order of blocks is no matter.
#include "engine/backends/cuda/selection_class.h"
#include "engine/backends/cuda/selection_keys.h"

namespace pare::cuda {
namespace {

constexpr int kBins = 2048;
constexpr int kCopies = 4;
constexpr int64_t kColumnsOfBlock = 8192;

struct CutState {
  unsigned long long bins[kBins];
  uint32_t prefix;  // bits of the cut found so far
  int64_t left;     // ties that go, in the end
  uint64_t limit;
};

__global__ void start_kernel(CutState* state, int64_t count) {
  for (int i = int(threadIdx.x); i < kBins; i += int(blockDim.x)) state->bins[i] = 0;
  if (threadIdx.x == 0) state->prefix = 0, state->left = count, state->limit = kEverything;
}

template <typename T>
__global__ void __launch_bounds__(kSelectThreads)
    count_kernel(const T* weight, const float* norms, int64_t rows, int64_t columns, int64_t stride,
                 int shift, int bits, CutState* state) {
  __shared__ uint32_t bins[kCopies][kBins];
  const int thread = int(threadIdx.x), copy = thread / 32 % kCopies;
  for (int i = thread; i < kCopies * kBins; i += kSelectThreads) bins[i / kBins][i % kBins] = 0;
  __syncthreads();
  const uint32_t prefix = state->prefix;
  const bool is_first = shift + bits == 32;
  const uint32_t mask = (1u << bits) - 1;
  const int64_t first = int64_t(blockIdx.y) * kColumnsOfBlock;
  const int64_t last = first + kColumnsOfBlock < columns ? first + kColumnsOfBlock : columns;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* line = weight + row * stride;
    for (int64_t c = first + thread; c < last; c += kSelectThreads) {
      const uint32_t key = selection_key(line, norms, c);
      if (is_first || key >> (shift + bits) == prefix) atomicAdd(&bins[copy][key >> shift & mask], 1u);
    }
  }
  __syncthreads();
  for (int i = thread; i < kBins; i += kSelectThreads) {
    uint32_t sum = 0;
#pragma unroll
    for (int k = 0; k < kCopies; ++k) sum += bins[k][i];
    if (sum != 0) atomicAdd(&state->bins[i], static_cast<unsigned long long>(sum));
  }
}

// Finds the bin of the cut and clears the bins; one block.
__global__ void __launch_bounds__(kSelectThreads) choose_kernel(int shift, int bits, CutState* state) {
  constexpr int kOwn = kBins / kSelectThreads;
  const int first = int(threadIdx.x) * kOwn;
  const int64_t left = state->left;
  const uint32_t prefix = state->prefix;
  int64_t counts[kOwn], sum = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    counts[i] = int64_t(state->bins[first + i]);
    sum += counts[i];
    state->bins[first + i] = 0;
  }
  int64_t before = block_sum_before(sum, static_cast<int64_t*>(nullptr));  // all have read the state
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    if (before <= left && left < before + counts[i]) {
      state->prefix = prefix << bits | uint32_t(first + i);
      state->left = left - before;
      state->limit = uint64_t(prefix << bits | uint32_t(first + i)) << shift;
    }
    before += counts[i];
  }
}

// Ties of each row.
template <typename T>
__global__ void __launch_bounds__(kSelectThreads)
    count_ties_kernel(const T* weight, const float* norms, int64_t columns, int64_t stride,
                      const CutState* state, int64_t* ties) {
  const T* line = weight + int64_t(blockIdx.x) * stride;
  const uint64_t limit = state->limit;
  int64_t own = 0;
  for (int64_t c = threadIdx.x; c < columns; c += kSelectThreads)
    own += selection_key(line, norms, c) == limit ? 1 : 0;
  own = block_sum(own);
  if (threadIdx.x == 0) ties[blockIdx.x] = own;
}

// ties[r] becomes how many of row r go; one block.
__global__ void __launch_bounds__(kSelectThreads)
    share_ties_kernel(int64_t rows, const CutState* state, int64_t* ties) {
  int64_t left = state->left;
  for (int64_t first = 0; first < rows; first += kSelectThreads) {
    const int64_t row = first + threadIdx.x;
    const int64_t own = row < rows ? ties[row] : 0;
    int64_t total = 0;
    const int64_t remaining = left - block_sum_before(own, &total);
    if (row < rows) ties[row] = remaining <= 0 ? 0 : remaining < own ? remaining : own;
    left -= total;
  }
}

template <typename T>
__global__ void __launch_bounds__(kSelectThreads)
    mask_kernel(const T* weight, const float* norms, int64_t columns, int64_t stride, const CutState* state,
                const int64_t* ties, uint8_t* mask) {
  const int64_t row = blockIdx.x;
  const T* line = weight + row * stride;
  const SelectionCut cut{state->limit, ties[row]};
  write_row_mask([&](int64_t c) { return selection_key(line, norms, c); }, columns, cut,
                 mask + row * ((columns + 7) / 8));
}

constexpr size_t kStateBytes = (sizeof(CutState) + 63) / 64 * 64;

}  // namespace

size_t CudaSelection::select_matrix_workspace_bytes(int64_t rows) const {
  return kStateBytes + (size_t(rows) * sizeof(int64_t) + 63) / 64 * 64;
}

void CudaSelection::select_matrix(const SelectMatrixArgs& a) {
  const SelectionScores& s = a.scores;
  auto* state = static_cast<CutState*>(a.workspace);
  auto* ties = reinterpret_cast<int64_t*>(static_cast<std::byte*>(a.workspace) + kStateBytes);
  const int64_t count = a.count < 0 ? 0 : a.count;
  context_.launch("select_start", start_kernel, {.grid = 1, .block = kSelectThreads}, state, count);
  with_weights(s.weight, s.dtype, [&](const auto* weight) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(weight)>>;
    const auto across = unsigned((s.columns + kColumnsOfBlock - 1) / kColumnsOfBlock);
    const int64_t most = int64_t(context_.multiprocessors()) * 6;  // blocks of 32 KiB that a chip holds
    const dim3 grid(unsigned(s.rows < most ? s.rows : most), across);
    // 16-bit floats as floats of 32 bits: the lowest 13 bits are zero.
    const int passes = s.dtype != DType::f32 && s.norms == nullptr ? 2 : 3;
    constexpr int kShift[] = {21, 10, 0}, kBits[] = {11, 11, 10};
    for (int pass = 0; pass < passes && count < s.rows * s.columns; ++pass) {
      context_.launch("select_count", count_kernel<T>, {.grid = grid, .block = kSelectThreads}, weight,
                      s.norms, s.rows, s.columns, s.stride, kShift[pass], kBits[pass], state);
      context_.launch("select_choose", choose_kernel, {.grid = 1, .block = kSelectThreads}, kShift[pass],
                      kBits[pass], state);
    }
    const LaunchShape rows{.grid = blocks_for(s.rows, 1), .block = kSelectThreads};
    const CutState* found = state;
    context_.launch("select_ties", count_ties_kernel<T>, rows, weight, s.norms, s.columns, s.stride, found,
                    ties);
    context_.launch("select_share", share_ties_kernel, {.grid = 1, .block = kSelectThreads}, s.rows, found,
                    ties);
    context_.launch("select_mask", mask_kernel<T>, rows, weight, s.norms, s.columns, s.stride, found,
                    static_cast<const int64_t*>(ties), a.mask);
  });
}

}  // namespace pare::cuda
