// adamw, sgd, sum_of_squares and apply_mask: one pass over memory, one launch for all parameters of a model.
//
// A list is cut into pieces of kPieceElements, one block each; the table of the parameters is copied to the
// device and a block finds its own by bisection. A piece is long enough that finding it costs nothing
// (28 bytes per element of AdamW: 448 KiB) and short enough that the last ones spread over the device.
#include <limits>
#include <vector>

#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/kernel.h"

namespace pare::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kPieceElements = 16'384;

// One parameter. The factors of a step are found in double on the host: 1 - beta2 and lr / correction1 keep
// all their digits. Decay and step are taken from w together, since 1 - lr decay would lose most of lr decay.
struct AdamWEntry {
  float* w;
  float* m;
  float* v;
  const float* gradient;
  const uint8_t* kept;
  int64_t count, columns, row_bytes;
  int64_t first_block;
  float gradient_scale, beta1, rest1, beta2, rest2, step, inverse2, eps, decay;
};

AdamWEntry entry_of(const AdamWArgs& a, int64_t first_block) {
  return {.w = a.w,
          .m = a.m,
          .v = a.v,
          .gradient = a.gradient,
          .kept = a.kept,
          .count = a.count,
          .columns = a.columns,
          .row_bytes = a.row_bytes,
          .first_block = first_block,
          .gradient_scale = a.gradient_scale,
          .beta1 = a.beta1,
          .rest1 = float(1.0 - double(a.beta1)),
          .beta2 = a.beta2,
          .rest2 = float(1.0 - double(a.beta2)),
          .step = float(double(a.lr) / double(a.correction1)),
          .inverse2 = float(1.0 / double(a.correction2)),
          .eps = a.eps,
          .decay = float(double(a.lr) * double(a.decay))};
}

// The last entry whose blocks begin at or before this block.
template <typename Entry>
__device__ __forceinline__ const Entry& entry_of_block(const Entry* table, int entries) {
  int low = 0, high = entries;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table[middle].first_block <= int64_t(blockIdx.x)) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return table[low];
}

__device__ __forceinline__ bool is_kept(const uint8_t* kept, int64_t columns, int64_t row_bytes, int64_t i) {
  if (kept == nullptr) return true;
  // 32-bit division where it suffices: the other one takes five times as long
  const int64_t row =
      i <= 0xffffffff && columns <= 0xffffffff ? int64_t(uint32_t(i) / uint32_t(columns)) : i / columns;
  const int64_t column = i - row * columns;
  return (kept[row * row_bytes + column / 8] >> (column % 8) & 1) != 0;
}

__device__ __forceinline__ bool are_wide(const void* a, const void* b, const void* c, const void* d) {
  return ((reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) | reinterpret_cast<uintptr_t>(c) |
           reinterpret_cast<uintptr_t>(d)) &
          15) == 0;
}

__device__ __forceinline__ void load_four(const float* from, int64_t i, int64_t end, bool wide,
                                          float (&x)[4]) {
  if (wide && i + 4 <= end) {
    const float4 four = *reinterpret_cast<const float4*>(from + i);
    x[0] = four.x;
    x[1] = four.y;
    x[2] = four.z;
    x[3] = four.w;
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) x[j] = i + j < end ? from[i + j] : 0.0f;
}
__device__ __forceinline__ void store_four(float* to, int64_t i, int64_t end, bool wide,
                                           const float (&x)[4]) {
  if (wide && i + 4 <= end) {
    *reinterpret_cast<float4*>(to + i) = make_float4(x[0], x[1], x[2], x[3]);
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j)
    if (i + j < end) to[i + j] = x[j];
}

// m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;  w -= lr decay w;
// w -= lr (m / correction1) / (sqrt(v / correction2) + eps)
__global__ void __launch_bounds__(kThreads) adamw_kernel(const AdamWEntry* table, int entries) {
  const AdamWEntry& a = entry_of_block(table, entries);
  const int64_t begin = (int64_t(blockIdx.x) - a.first_block) * kPieceElements;
  const int64_t end = begin + kPieceElements < a.count ? begin + kPieceElements : a.count;
  const bool wide = are_wide(a.w, a.m, a.v, a.gradient);
  for (int64_t i = begin + 4 * int64_t(threadIdx.x); i < end; i += 4 * kThreads) {
    float w[4], m[4], v[4], gradient[4];
    load_four(a.w, i, end, wide, w);
    load_four(a.m, i, end, wide, m);
    load_four(a.v, i, end, wide, v);
    load_four(a.gradient, i, end, wide, gradient);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (!is_kept(a.kept, a.columns, a.row_bytes, i + j < end ? i + j : i)) {
        w[j] = m[j] = v[j] = 0.0f;
        continue;
      }
      const float g = gradient[j] * a.gradient_scale;
      m[j] = fmaf(a.beta1, m[j], a.rest1 * g);
      v[j] = fmaf(a.beta2, v[j], (a.rest2 * g) * g);
      const float change = a.step * m[j] / (sqrtf(v[j] * a.inverse2) + a.eps);
      w[j] = w[j] - fmaf(a.decay, w[j], change);
    }
    store_four(a.m, i, end, wide, m);
    store_four(a.v, i, end, wide, v);
    store_four(a.w, i, end, wide, w);
  }
}

// momentum = mu momentum + g;  w -= lr decay w;  w -= lr momentum (or g where there is none)
__global__ void __launch_bounds__(kThreads) sgd_kernel(SgdArgs a, float decay) {
  const int64_t begin = int64_t(blockIdx.x) * kPieceElements;
  const int64_t end = begin + kPieceElements < a.count ? begin + kPieceElements : a.count;
  const bool wide = are_wide(a.w, a.momentum, a.gradient, nullptr);
  for (int64_t i = begin + 4 * int64_t(threadIdx.x); i < end; i += 4 * kThreads) {
    float w[4], momentum[4] = {0.0f, 0.0f, 0.0f, 0.0f}, change[4];
    load_four(a.w, i, end, wide, w);
    load_four(a.gradient, i, end, wide, change);
    if (a.momentum != nullptr) load_four(a.momentum, i, end, wide, momentum);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const bool kept = is_kept(a.kept, a.columns, a.row_bytes, i + j < end ? i + j : i);
      change[j] *= a.gradient_scale;
      if (a.momentum != nullptr) change[j] = fmaf(a.mu, momentum[j], change[j]);
      w[j] = kept ? w[j] - fmaf(decay, w[j], a.lr * change[j]) : 0.0f;
      if (!kept) change[j] = 0.0f;
    }
    if (a.momentum != nullptr) store_four(a.momentum, i, end, wide, change);
    store_four(a.w, i, end, wide, w);
  }
}

struct SquaresEntry {
  const float* x;
  int64_t count, first_block;
};

// The sum of each piece.
__global__ void __launch_bounds__(kThreads)
    squares_kernel(const SquaresEntry* table, int entries, double* partial) {
  const SquaresEntry& a = entry_of_block(table, entries);
  const int64_t begin = (int64_t(blockIdx.x) - a.first_block) * kPieceElements;
  const int64_t end = begin + kPieceElements < a.count ? begin + kPieceElements : a.count;
  const bool wide = are_wide(a.x, nullptr, nullptr, nullptr);
  double sum = 0.0;
#pragma unroll 4
  for (int64_t i = begin + 4 * int64_t(threadIdx.x); i < end; i += 4 * kThreads) {
    float x[4];
    load_four(a.x, i, end, wide, x);
#pragma unroll
    for (int j = 0; j < 4; ++j) sum += double(x[j]) * double(x[j]);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads) sum_kernel(const double* x, int64_t count, double* total) {
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += x[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *total = sum;
}

__global__ void __launch_bounds__(kThreads) mask_kernel(MaskArgs a) {
  const int64_t count = a.rows * a.columns;
  const int64_t begin = int64_t(blockIdx.x) * kPieceElements;
  const int64_t end = begin + kPieceElements < count ? begin + kPieceElements : count;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads)
    if (!is_kept(a.kept, a.columns, a.row_bytes, i)) a.x[i] = 0.0f;
}

int64_t pieces_of(int64_t count) {
  return (count + kPieceElements - 1) / kPieceElements;
}

// The table in device memory, with `more` bytes behind it; null when there is none (noted).
template <typename Entry>
const Entry* uploaded(Context& context, const std::vector<Entry>& table, size_t more) {
  const size_t bytes = table.size() * sizeof(Entry);
  void* place = context.scratch(bytes + more);
  if (place == nullptr) return nullptr;
  context.upload(place, table.data(), bytes, "table of parameters");
  return static_cast<const Entry*>(place);
}

}  // namespace

void CudaTraining::adamw(const AdamWArgs& a) {
  adamw_list(std::span(&a, 1));
}

void CudaTraining::adamw_list(std::span<const AdamWArgs> list) {
  std::vector<AdamWEntry> table;
  table.reserve(list.size());
  int64_t blocks = 0;
  for (const AdamWArgs& a : list) {
    table.push_back(entry_of(a, blocks));
    blocks += pieces_of(a.count);
  }
  if (blocks == 0) return;
  const AdamWEntry* entries = uploaded(context_, table, 0);
  if (entries == nullptr) return;
  context_.launch("adamw", adamw_kernel, {.grid = blocks_for(blocks, 1), .block = kThreads}, entries,
                  int(table.size()));
}

void CudaTraining::sgd(const SgdArgs& a) {
  context_.launch("sgd", sgd_kernel, {.grid = blocks_for(a.count, kPieceElements), .block = kThreads}, a,
                  float(double(a.lr) * double(a.decay)));
}

double CudaTraining::sum_of_squares(const float* x, int64_t count) {
  const SquaresArgs one{x, count};
  return sum_of_squares_list(std::span(&one, 1));
}

double CudaTraining::sum_of_squares_list(std::span<const SquaresArgs> list) {
  std::vector<SquaresEntry> table;
  table.reserve(list.size());
  int64_t blocks = 0;
  for (const SquaresArgs& a : list) {
    table.push_back({.x = a.x, .count = a.count, .first_block = blocks});
    blocks += pieces_of(a.count);
  }
  if (blocks == 0) return 0.0;
  const SquaresEntry* entries = uploaded(context_, table, size_t(blocks + 1) * sizeof(double));
  if (entries == nullptr) return std::numeric_limits<double>::quiet_NaN();
  auto* partial = reinterpret_cast<double*>(const_cast<SquaresEntry*>(entries) + table.size());
  double* total = partial + blocks;
  context_.launch("sum_of_squares", squares_kernel, {.grid = blocks_for(blocks, 1), .block = kThreads},
                  entries, int(table.size()), partial);
  context_.launch("sum_of_squares", sum_kernel, {.grid = 1, .block = kThreads},
                  static_cast<const double*>(partial), blocks, total);
  double result = std::numeric_limits<double>::quiet_NaN();  // where the device broke off
  context_.note(cudaMemcpyAsync(&result, total, sizeof result, cudaMemcpyDeviceToHost, context_.stream()),
                "sum_of_squares");
  context_.note(cudaStreamSynchronize(context_.stream()), "sum_of_squares");
  return result;
}

void CudaTraining::apply_mask(const MaskArgs& a) {
  context_.launch("apply_mask", mask_kernel,
                  {.grid = blocks_for(a.rows * a.columns, kPieceElements), .block = kThreads}, a);
}

}  // namespace pare::cuda
