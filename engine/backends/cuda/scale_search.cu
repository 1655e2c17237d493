// Losses of scales before rounding. Several candidates at once: their errors E lie below each other as one
// tall matrix, so that the search of ranges, the product with the moment and the sums are one launch each,
// and the moment is read from L2 by all of them. The product is output_energy(): half of E H, since H is
// symmetric, and sums in double where a library's product would write E H first.
#include <algorithm>

#include "engine/backends/cuda/grid_math.h"
#include "engine/backends/cuda/scales_class.h"

namespace pare::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kBlocks = 6;  // 80 registers: left alone, the compiler spills to stay at 64
constexpr int kThreads = 256;
// Columns of a group that a warp keeps in shared memory: 8 KiB for four warps with their importances, so that
// shared memory does not limit how many blocks a multiprocessor holds. Wider groups (whole rows) come out of
// L1 as the same address for all lanes.
constexpr int kStaged = 256;
constexpr int kSums = 16;  // of group_error()

struct alignas(16) Group {
  float values[kStaged], importance[kStaged];
};

// importance[c, j] = importance[j] / s[c, j]^2: what the scaled input has.
__global__ void scale_importance_kernel(const float* importance, const float* scales, float* out,
                                        int64_t columns, int64_t count) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) out[i] = __fdiv_rn(importance[i % columns], __fmul_rn(scales[i], scales[i]));
}

// errors[c, r, j] = w - Q(w s) / s. A warp per candidate, row and group.
template <bool kIsStaged>
__global__ void __launch_bounds__(kWarps* kWarp, kBlocks)
    rounding_errors_kernel(ScaleLossesArgs a, const float* scales, const float* importance, float* errors,
                           int64_t groups, int64_t total) {
  __shared__ Group staged[kWarps];  // only if kIsStaged
  const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp;
  const int64_t index = int64_t(blockIdx.x) * kWarps + warp;
  if (index >= total) return;
  const int64_t begin = index % groups * a.width, tall_row = index / groups;
  const int64_t candidate = tall_row / a.rows, row = tall_row % a.rows;
  const int count = int(a.columns - begin < a.width ? a.columns - begin : a.width);
  const float* weight = a.weight + row * a.columns + begin;
  const float* s = scales + candidate * a.columns + begin;
  const float* u = importance != nullptr ? importance + candidate * a.columns + begin : nullptr;
  float* error = errors + tall_row * a.columns + begin;

  float* values = kIsStaged ? staged[warp].values : error;
  float low = __fmul_rn(weight[0], s[0]), high = low;
  for (int i = lane; i < count; i += kWarp) {
    const float value = __fmul_rn(weight[i], s[i]);
    low = fminf(low, value);
    high = fmaxf(high, value);
    values[i] = value;
    if (kIsStaged) staged[warp].importance[i] = u != nullptr ? u[i] : 1.0f;
  }
  const int padded = (count + kSums - 1) / kSums * kSums;
  if (kIsStaged && count + lane < padded)
    staged[warp].values[count + lane] = staged[warp].importance[count + lane] = 0.0f;
  __syncwarp();
  low = -warp_max(-low);
  high = warp_max(high);

  DeviceFit fit;
  if (kIsStaged) {
    const float* group = staged[warp].values;
    const float* shares = staged[warp].importance;
    fit = fit_by_warp<true>(
        a.format, a.search, low, high, padded, [=](int i) { return group[i]; },
        [=](int i) { return shares[i]; });
  } else {
    fit = fit_by_warp(
        a.format, a.search, low, high, count, [=](int i) { return values[i]; },
        [=](int i) { return u != nullptr ? u[i] : 1.0f; });
  }
  const float bottom = lowest_code(a.format), top = float(a.format.code_count - 1);
  __syncwarp();  // the lanes have read what becomes the errors
  for (int i = lane; i < count; i += kWarp) {
    const float restored = value_of(code_of(values[i], fit.grid, bottom, top), fit.grid);
    error[i] = __fsub_rn(weight[i], __fdiv_rn(restored, s[i]));
  }
}

// losses[c] = sum over rows of sums[c, r]: a block per candidate, in a tree of fixed shape.
__global__ void sum_rows_kernel(const double* sums, double* losses, int64_t rows) {
  const double* mine = sums + int64_t(blockIdx.x) * rows;
  double sum = 0.0;
  for (int64_t row = threadIdx.x; row < rows; row += kThreads) sum += mine[row];
  sum = block_sum(sum);
  if (threadIdx.x == 0) losses[blockIdx.x] = sum;
}

size_t aligned(size_t bytes) {
  return (bytes + 255) / 256 * 256;
}

// Parts of the workspace, as offsets; the last one is its size.
struct Parts {
  size_t importance, sums, energy, end;
};

Parts parts_of(const ColumnSolver& solver, int64_t rows, int64_t columns, int64_t at_once) {
  const int64_t tall = rows * at_once;
  Parts parts{};
  parts.importance = aligned(size_t(tall * columns) * sizeof(float));  // behind the errors
  parts.sums = parts.importance + aligned(size_t(at_once * columns) * sizeof(float));
  parts.energy = parts.sums + aligned(size_t(tall) * sizeof(double));
  parts.end = parts.energy + aligned(solver.output_energy_workspace_bytes(tall, columns));
  return parts;
}

}  // namespace

size_t CudaScaleSearch::workspace_bytes(int64_t rows, int64_t columns, int64_t at_once) const {
  return parts_of(solver_, rows, columns, at_once).end;
}

void CudaScaleSearch::losses(const ScaleLossesArgs& a) {
  const int64_t groups = (a.columns + a.width - 1) / a.width;
  const Parts parts = parts_of(solver_, a.rows, a.columns, a.at_once);
  unsigned char* workspace = static_cast<unsigned char*>(a.workspace);
  float* errors = static_cast<float*>(a.workspace);
  double* sums = reinterpret_cast<double*>(workspace + parts.sums);
  const bool is_weighted = a.search.steps > 0 && a.search.importance != nullptr;
  float* importance = is_weighted ? reinterpret_cast<float*>(workspace + parts.importance) : nullptr;
  for (int64_t first = 0; first < a.candidates; first += a.at_once) {
    const int64_t count = std::min(a.at_once, a.candidates - first), tall = count * a.rows;
    const float* scales = a.scales + first * a.columns;
    if (is_weighted)
      context_.launch("scale_losses importance", scale_importance_kernel,
                      {.grid = blocks_for(count * a.columns, kThreads), .block = kThreads},
                      a.search.importance, scales, importance, a.columns, count * a.columns);
    context_.launch("scale_losses round",
                    std::min(a.width, a.columns) <= kStaged ? rounding_errors_kernel<true>
                                                            : rounding_errors_kernel<false>,
                    {.grid = blocks_for(tall * groups, kWarps), .block = kWarps * kWarp}, a, scales,
                    static_cast<const float*>(importance), errors, groups, tall * groups);
    solver_.output_energy({.a = errors,
                           .b = nullptr,
                           .moment = a.moment,
                           .sums = sums,
                           .rows = tall,
                           .columns = a.columns,
                           .workspace = workspace + parts.energy});
    context_.launch("scale_losses sum", sum_rows_kernel, {.grid = unsigned(count), .block = kThreads},
                    static_cast<const double*>(sums), a.losses + first, a.rows);
  }
}

}  // namespace pare::cuda
