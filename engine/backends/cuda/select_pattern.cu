// N:M and block patterns, and applying masks.
//
// N:M: a lane per weight. Its rank among its group follows from comparing keys pairwise, without branches;
// keys come from the lanes of the group where groups do not cross warps, else from memory (L1). Votes are the
// bits of the mask, and for 2:4 the places of the kept ones too.
#include "engine/backends/cuda/selection_class.h"
#include "engine/backends/cuda/selection_keys.h"

namespace pare::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T, bool kWithinWarp>
__global__ void __launch_bounds__(kThreads)
    n_of_m_kernel(const T* weight, const float* norms, int64_t columns, int64_t stride, int n, int m,
                  int64_t chunks, uint8_t* mask, uint8_t* indices) {
  const int lane = int(threadIdx.x) % 32;
  const int64_t row = blockIdx.x / chunks;
  const int64_t word = blockIdx.x % chunks * (kThreads / 32) + int(threadIdx.x) / 32;
  if (word * 32 >= columns) return;  // whole warps
  const int64_t column = word * 32 + lane, begin = column / m * m;
  const int width = int(columns - begin < m ? columns - begin : m);
  const int own_place = int(column - begin);
  const T* line = weight + row * stride;
  const bool is_inside = column < columns;
  const uint32_t own = is_inside ? selection_key(line, norms, column) : 0;
  int lower = 0;  // how many go before this one
  for (int j = 0; j < m; ++j) {
    uint32_t other = 0;
    if constexpr (kWithinWarp) {
      other = __shfl_sync(kAllLanes, own, int(begin - word * 32) + j);
    } else {
      if (is_inside && j < width) other = selection_key(line, norms, begin + j);
    }
    lower += j < width && (other < own || (other == own && j < own_place)) ? 1 : 0;
  }
  const bool is_kept = is_inside && lower >= (m - n) * width / m;
  const uint32_t bits = __ballot_sync(kAllLanes, is_kept);
  const int64_t row_bytes = (columns + 7) / 8;
  if (lane < 4 && word * 4 + lane < row_bytes)
    mask[row * row_bytes + word * 4 + lane] = uint8_t(bits >> (8 * lane));
  if (indices == nullptr) return;
  // 2:4: two groups, four places of two bits, per byte. The last group may keep one.
  const int64_t kept = columns / 4 * 2 + (columns % 4 - columns % 4 / 2);
  const int64_t index_bytes = (kept + 3) / 4;
  if (lane >= 4 || word * 4 + lane >= index_bytes) return;
  uint32_t byte = 0;
#pragma unroll
  for (int g = 0; g < 2; ++g) {
    const uint32_t group = bits >> (8 * lane + 4 * g) & 15u;
    if (group == 0) continue;
    const uint32_t low = uint32_t(__ffs(int(group))) - 1, rest = group & (group - 1);
    const uint32_t high = rest != 0 ? uint32_t(__ffs(int(rest))) - 1 : 0;
    byte |= (low | high << 2) << (4 * g);
  }
  indices[row * index_bytes + word * 4 + lane] = uint8_t(byte);
}

// Mean score of each block, in double and in the order of rows, then columns; one thread per block.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    block_means_kernel(SelectionScores s, const T* weight, int64_t block_rows, int64_t block_columns,
                       int64_t down, int64_t across, float* means) {
  const int64_t block = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (block >= down * across) return;
  const int64_t top = block / across * block_rows, left = block % across * block_columns;
  const int64_t bottom = top + block_rows < s.rows ? top + block_rows : s.rows;
  const int64_t right = left + block_columns < s.columns ? left + block_columns : s.columns;
  double sum = 0.0;
  for (int64_t r = top; r < bottom; ++r) {
    for (int64_t c = left; c < right; ++c)
      sum += double(__uint_as_float(selection_key(weight + r * s.stride, s.norms, c)));
  }
  means[block] = float(sum / double((bottom - top) * (right - left)));
}

// A bit per block to a bit per weight; one thread per byte.
__global__ void __launch_bounds__(kThreads)
    spread_mask_kernel(const uint8_t* blocks, int64_t across, int64_t block_rows, int64_t block_columns,
                       int64_t rows, int64_t columns, uint8_t* mask) {
  const int64_t row_bytes = (columns + 7) / 8, at = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= rows * row_bytes) return;
  const int64_t row = at / row_bytes, first = at % row_bytes * 8;
  const uint8_t* line = blocks + row / block_rows * ((across + 7) / 8);
  unsigned bits = 0;
  for (int64_t c = first; c < first + 8 && c < columns; ++c) {
    const int64_t block = c / block_columns;
    bits |= unsigned(line[block / 8] >> (block % 8) & 1) << (c - first);
  }
  mask[at] = uint8_t(bits);
}

// One thread per byte of the mask, eight weights; 16-byte accesses where rows start on 16 bytes.
template <typename Bits, bool kWide>
__global__ void __launch_bounds__(kThreads)
    apply_mask_kernel(const Bits* weight, Bits* out, const uint8_t* mask, int64_t rows, int64_t columns,
                      int64_t weight_stride, int64_t out_stride) {
  const int64_t row_bytes = (columns + 7) / 8, at = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= rows * row_bytes) return;
  const int64_t row = at / row_bytes, first = at % row_bytes * 8;
  const Bits* from = weight + row * weight_stride + first;
  Bits* to = out + row * out_stride + first;
  const unsigned kept = mask[at];
  if (kWide && first + 8 <= columns) {
    constexpr int kPieces = int(sizeof(Bits)) * 8 / 16, kOfPiece = 8 / kPieces;
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      uint4 piece = reinterpret_cast<const uint4*>(from)[p];
      Bits values[kOfPiece];
      memcpy(values, &piece, sizeof piece);
#pragma unroll
      for (int i = 0; i < kOfPiece; ++i) {
        if ((kept >> (p * kOfPiece + i) & 1) == 0) values[i] = 0;
      }
      memcpy(&piece, values, sizeof piece);
      reinterpret_cast<uint4*>(to)[p] = piece;
    }
    return;
  }
  for (int i = 0; i < 8 && first + i < columns; ++i) to[i] = (kept >> i & 1) != 0 ? from[i] : Bits(0);
}

size_t aligned(size_t bytes) {
  return (bytes + 63) / 64 * 64;
}

}  // namespace

void CudaSelection::select_n_of_m(const SelectNOfMArgs& a) {
  const SelectionScores& s = a.scores;
  PARE_ASSERT(a.indices == nullptr || (a.n == 2 && a.m == 4), "[select_n_of_m] indices of {}:{}", a.n, a.m);
  const int64_t chunks = (s.columns + kThreads - 1) / kThreads;
  with_weights(s.weight, s.dtype, [&](const auto* weight) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(weight)>>;
    context_.launch("select_n_of_m", 32 % a.m == 0 ? n_of_m_kernel<T, true> : n_of_m_kernel<T, false>,
                    {.grid = blocks_for(s.rows * chunks, 1), .block = kThreads}, weight, s.norms, s.columns,
                    s.stride, a.n, a.m, chunks, a.mask, a.indices);
  });
}

size_t CudaSelection::select_blocks_workspace_bytes(int64_t rows, int64_t columns, int64_t block_rows,
                                                    int64_t block_columns) const {
  const int64_t down = (rows + block_rows - 1) / block_rows;
  const int64_t across = (columns + block_columns - 1) / block_columns;
  return aligned(size_t(down * across) * sizeof(float)) + aligned(size_t(down * ((across + 7) / 8))) +
         select_matrix_workspace_bytes(down);
}

void CudaSelection::select_blocks(const SelectBlocksArgs& a) {
  const SelectionScores& s = a.scores;
  const int64_t down = (s.rows + a.block_rows - 1) / a.block_rows;
  const int64_t across = (s.columns + a.block_columns - 1) / a.block_columns;
  auto* bytes = static_cast<std::byte*>(a.workspace);
  auto* means = reinterpret_cast<float*>(bytes);
  bytes += aligned(size_t(down * across) * sizeof(float));
  auto* chosen = reinterpret_cast<uint8_t*>(bytes);
  bytes += aligned(size_t(down * ((across + 7) / 8)));
  with_weights(s.weight, s.dtype, [&](const auto* weight) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(weight)>>;
    context_.launch("select_block_means", block_means_kernel<T>,
                    {.grid = blocks_for(down * across, kThreads), .block = kThreads}, s, weight, a.block_rows,
                    a.block_columns, down, across, means);
  });
  const SelectionScores of_blocks{.weight = means,
                                  .dtype = DType::f32,
                                  .norms = nullptr,
                                  .rows = down,
                                  .columns = across,
                                  .stride = across};
  if (a.is_balanced) {
    select_rows({.scores = of_blocks, .count = a.count, .mask = chosen});
  } else {
    select_matrix({.scores = of_blocks, .count = a.count, .mask = chosen, .workspace = bytes});
  }
  context_.launch("select_spread", spread_mask_kernel,
                  {.grid = blocks_for(s.rows * ((s.columns + 7) / 8), kThreads), .block = kThreads},
                  static_cast<const uint8_t*>(chosen), across, a.block_rows, a.block_columns, s.rows,
                  s.columns, a.mask);
}

void CudaSelection::apply_mask(const ApplyMaskArgs& a) {
  const LaunchShape shape{.grid = blocks_for(a.rows * ((a.columns + 7) / 8), kThreads), .block = kThreads};
  const auto launch = [&]<typename Bits>(Bits) {
    const auto starts_wide = [](const void* first, int64_t stride) {
      return reinterpret_cast<uintptr_t>(first) % 16 == 0 && stride * int64_t(sizeof(Bits)) % 16 == 0;
    };
    const bool is_wide = starts_wide(a.weight, a.weight_stride) && starts_wide(a.out, a.out_stride);
    context_.launch("apply_mask", is_wide ? apply_mask_kernel<Bits, true> : apply_mask_kernel<Bits, false>,
                    shape, static_cast<const Bits*>(a.weight), static_cast<Bits*>(a.out), a.mask, a.rows,
                    a.columns, a.weight_stride, a.out_stride);
  };
  if (a.dtype == DType::f32) return launch(uint32_t{});
  launch(uint16_t{});
}

}  // namespace pare::cuda
