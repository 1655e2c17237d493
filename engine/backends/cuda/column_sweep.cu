// sweep_block: the columns of a block get their final values one after the other.
//
// Rows are independent. A block owns 32 rows: their 128 values, the factor's 128 x 128 part, what was chosen,
// codes and masks lie in shared memory (74 KiB: three blocks on an H100, two on an A100). Four threads share
// a row: each computes the chosen value (they run in step anyway) and carries the error into every fourth of
// the later columns. So 4096 rows are 128 blocks of 4 warps, one per multiprocessor, and a step waits for two
// divisions and a quarter of the columns. Rows of a warp stand 132 floats apart: 8 rows x 4 columns touch 32
// banks once.
#include "engine/backends/cuda/columns_class.h"
#include "engine/backends/cuda/grid_math.h"

namespace pare::cuda {
namespace {

constexpr int kRows = 32;
constexpr int kShare = 4;  // threads per row
constexpr int kThreads = kRows * kShare;
constexpr int kColumns = int(kSweepColumns);
constexpr int kPitch = kColumns + 4;

struct SweepShared {
  float upper[kColumns / 2]
             [kColumns + 1];    // of the block, from the diagonal on: rows i and 127 - i in a line
  float values[kRows][kPitch];  // current values, then -e of columns that are done
  float chosen[kRows][kPitch];
  uint8_t codes[kRows][kPitch];
  uint8_t keep[kRows][kPitch];
};

// Row i of the factor; columns before i are not there.
__device__ __forceinline__ int upper_place(int i) {
  return i < kColumns / 2 ? i * kColumns : (kColumns - 1 - i) * (kColumns + 1) + 1;
}
__device__ __forceinline__ const float* upper_row(const SweepShared& shared, int i) {
  return &shared.upper[0][0] + upper_place(i);
}

// The four threads of a row, and what they know of it.
struct RowView {
  const SweepBlockArgs& a;
  SweepShared& shared;
  int local;    // row within the block
  int part;     // which of the four
  int64_t row;  // of the matrix; clamped to the last one for rows that are not there
  bool is_real;

  __device__ int count() const { return int(a.end - a.begin); }
};

__device__ __forceinline__ float score(float value, float diagonal) {
  const float ratio = __fdiv_rn(value, diagonal);
  return __fmul_rn(ratio, ratio);
}

// Which of the next m columns are kept: by their scores as they are now, ties by the lower column.
__device__ void choose_group(const RowView& v, int first) {
  const int width = v.count() - first < v.a.m ? v.count() - first : v.a.m;
  const int removed = (v.a.m - v.a.n) * width / v.a.m;
  const auto score_of = [&](int i) {
    return v.shared.keep[v.local][i] != 0 ? score(v.shared.values[v.local][i], upper_row(v.shared, i)[i])
                                          : 0.0f;
  };
  uint32_t kept = 0;
  for (int i = first + v.part; i < first + width; i += kShare) {
    const float mine = score_of(i);
    int lower = 0;
    for (int j = first; j < first + width; ++j) {
      const float other = score_of(j);
      lower += other < mine || (other == mine && j < i) ? 1 : 0;
    }
    kept |= (lower >= removed ? 1u : 0u) << (i - first);
  }
  __syncwarp();  // all have read the marks of the group
  for (int i = first + v.part; i < first + width; i += kShare)
    v.shared.keep[v.local][i] = uint8_t(kept >> (i - first) & 1u);
  __syncwarp();
}

__device__ __forceinline__ DeviceGrid load_grid(const SweepBlockArgs& a, int64_t row, int64_t group) {
  const int64_t index = row * ((a.columns + a.width - 1) / a.width) + group;
  return {a.grids.scales[index], a.grids.zeros[index], a.grids.minimums[index]};
}

// The grid of the group that begins at position begin + first, from the values as they are now: those of the
// block in shared memory, those behind it in the matrix, which lack this block's share. Each of the four
// tries its part of the ranges.
__device__ DeviceGrid fit_ahead(const RowView& v, int first) {
  const SweepBlockArgs& a = v.a;
  const int64_t position = a.begin + first;
  const int count = int(a.columns - position < a.width ? a.columns - position : a.width);
  const auto value_at = [&](int i) {
    return first + i < v.count() ? v.shared.values[v.local][first + i]
                                 : a.work[v.row * a.columns + position + i];
  };
  const auto importance_at = [&](int i) {
    return a.search.importance != nullptr ? a.search.importance[a.order[position + i]] : 1.0f;
  };
  float low = value_at(0), high = low;
  for (int i = 1; i < count; ++i) {
    low = fminf(low, value_at(i));
    high = fmaxf(high, value_at(i));
  }
  double best = __longlong_as_double(0x7ff0000000000000ll);
  int step_of_best = 0;
  for (int step = v.part; step < a.search.steps; step += kShare) {
    const DeviceGrid grid = fit_shrunken(a.format, low, high, step, a.search.grid).grid;
    const double error = group_error(a.format, grid, count, value_at, importance_at);
    if (error < best) {
      best = error;
      step_of_best = step;
    }
  }
#pragma unroll
  for (int offset = kShare / 2; offset > 0; offset /= 2) {
    const double other = __shfl_xor_sync(kAllLanes, best, offset);
    const int step = __shfl_xor_sync(kAllLanes, step_of_best, offset);
    if (other < best || (other == best && step < step_of_best)) {
      best = other;
      step_of_best = step;
    }
  }
  const DeviceFit fit = step_of_best == 0 ? fit_range(a.format, low, high)
                                          : fit_shrunken(a.format, low, high, step_of_best, a.search.grid);
  int clipped = 0;
  for (int i = v.part; i < count; i += kShare) clipped += is_clipped(a.format, fit.grid, value_at(i)) ? 1 : 0;
#pragma unroll
  for (int offset = kShare / 2; offset > 0; offset /= 2)
    clipped += __shfl_xor_sync(kAllLanes, clipped, offset);
  if (v.part == 0 && v.is_real) {
    const int64_t index = v.row * ((a.columns + a.width - 1) / a.width) + position / a.width;
    a.grids.scales[index] = fit.grid.scale;
    a.grids.zeros[index] = fit.grid.zero;
    a.grids.minimums[index] = fit.grid.minimum;
    a.grids.faults[index] = uint8_t(fit.fault);
    a.grids.clipped[index] = clipped;
  }
  return fit.grid;
}

// Values, marks and the factor from memory; rows that are not there are zeros.
__device__ void load_block(const SweepBlockArgs& a, SweepShared& shared) {
  const int count = int(a.end - a.begin), warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp;
  for (int i = warp; i < count; i += kThreads / kWarp) {
    const float* upper = a.upper + (a.begin + i) * a.columns + a.begin;
    float* row = &shared.upper[0][0] + upper_place(i);
    for (int j = lane; j < count; j += kWarp) {
      if (j >= i) row[j] = upper[j];
    }
  }
  for (int r = warp; r < kRows; r += kThreads / kWarp) {
    const int64_t row = int64_t(blockIdx.x) * kRows + r, start = row * a.columns + a.begin;
    for (int j = lane; j < count; j += kWarp) {
      shared.values[r][j] = row < a.rows ? a.work[start + j] : 0.0f;
      shared.keep[r][j] = row < a.rows && a.keep != nullptr ? a.keep[start + j] : uint8_t(1);
    }
  }
}

__device__ void store_block(const SweepBlockArgs& a, const SweepShared& shared) {
  const int count = int(a.end - a.begin), warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp;
  for (int r = warp; r < kRows; r += kThreads / kWarp) {
    const int64_t row = int64_t(blockIdx.x) * kRows + r, start = row * a.columns + a.begin;
    if (row >= a.rows) return;
    for (int j = lane; j < count; j += kWarp) {
      a.work[start + j] = shared.chosen[r][j];
      a.errors[row * kColumns + j] = shared.values[r][j];
      if (a.codes != nullptr) a.codes[start + j] = shared.codes[r][j];
      if (a.m > 0) a.keep[start + j] = shared.keep[r][j];
    }
  }
}

template <bool kIsAhead>
__global__ void __launch_bounds__(kThreads) sweep_kernel(SweepBlockArgs a) {
  PARE_SHARED_BYTES(bytes);
  SweepShared& shared = *reinterpret_cast<SweepShared*>(bytes);
  load_block(a, shared);
  __syncthreads();

  const int local = int(threadIdx.x) / kShare, part = int(threadIdx.x) % kShare;
  const int64_t row = int64_t(blockIdx.x) * kRows + local;
  const bool is_real = row < a.rows;
  const RowView view{a, shared, local, part, is_real ? row : a.rows - 1, is_real};
  const int count = view.count();
  const bool rounds = a.codes != nullptr;
  const float bottom = rounds ? lowest_code(a.format) : 0.0f;
  const float top = rounds ? float(a.format.code_count - 1) : 0.0f;
  float* values = shared.values[local];

  DeviceGrid grid;         // of the current column
  DeviceGrid held, ahead;  // fitted: of column i % 4 == part among these four columns, and the next four
  const auto fetch = [&](int i) {
    return i < count ? load_grid(a, view.row, a.order[a.begin + i] / a.width) : DeviceGrid();
  };
  if (kIsAhead) {
    if (a.begin % a.width != 0) grid = load_grid(a, view.row, a.begin / a.width);
  } else if (rounds) {
    ahead = fetch(part);
  }
  double loss = 0.0;
  for (int i = 0; i < count; ++i) {
    if (kIsAhead) {
      if ((a.begin + i) % a.width == 0) grid = fit_ahead(view, i);
    } else if (rounds) {
      // Loads are asked for four columns before they are needed.
      if (i % kShare == 0) {
        held = ahead;
        ahead = fetch(i + kShare + part);
      }
      grid.scale = __shfl_sync(kAllLanes, held.scale, i % kShare, kShare);
      grid.zero = __shfl_sync(kAllLanes, held.zero, i % kShare, kShare);
      grid.minimum = __shfl_sync(kAllLanes, held.minimum, i % kShare, kShare);
    }
    if (a.m > 0 && i % a.m == 0) choose_group(view, i);

    const float* upper = upper_row(shared, i);
    const float value = values[i], diagonal = upper[i];
    const bool is_kept = shared.keep[local][i] != 0;
    float chosen = is_kept ? value : 0.0f;
    if (rounds) {
      const float code = code_of(chosen, grid, bottom, top);
      chosen = is_kept ? value_of(code, grid) : 0.0f;
      if (part == 0) shared.codes[local][i] = uint8_t(code);
    }
    const float error = __fdiv_rn(__fsub_rn(value, chosen), diagonal);
    loss += double(error) * double(error);
#pragma unroll 4
    for (int j = i + 1 + ((part - i - 1) & (kShare - 1)); j < count; j += kShare)
      values[j] = __fsub_rn(values[j], __fmul_rn(error, upper[j]));
    __syncwarp();  // all four have read column i; the next one is whole
    if (part == 0) {
      shared.chosen[local][i] = chosen;
      values[i] = -error;
    }
  }
  if (part == 0 && is_real) a.loss[row] += loss;
  __syncthreads();
  store_block(a, shared);
}

}  // namespace

void CudaColumnSolver::sweep_block(const SweepBlockArgs& a) {
  PARE_ASSERT(a.end - a.begin <= kSweepColumns && a.m <= 32, "[cuda] sweep of {} columns, n of {}",
              a.end - a.begin, a.m);
  const LaunchShape shape{
      .grid = blocks_for(a.rows, kRows), .block = kThreads, .shared_bytes = sizeof(SweepShared)};
  if (a.codes != nullptr && a.fit_ahead) {
    context_.launch("sweep_block", sweep_kernel<true>, shape, a);
  } else {
    context_.launch("sweep_block", sweep_kernel<false>, shape, a);
  }
}

}  // namespace pare::cuda
