// 2:4 products in float, and 2:4 matrices made dense: every lane expands the pairs that it holds.
//
// A block takes one tile of 16 rows, its warps share the columns; inputs come from L1, where the four lanes
// that share columns and the eight that share rows find them again. For f32 products and tests; the fast path
// of 16-bit products is sparse_of_four_mma.cu.
#include "engine/backends/cuda/sparse_of_four.h"

namespace pare::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;

// visit(low_row, column, weight) for the kept weights of this lane in column tile `tile`; all of the warp
// take part. Fillings lie at columns beyond the last one and are left out.
template <SparseStored kStored, typename Visit>
__device__ __forceinline__ void for_kept(const SparseProblem& p, int64_t row_tile, int64_t tile,
                                         int64_t column_tiles, const uint8_t* words, OfFourGrids& grids,
                                         Visit visit) {
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t at = row_tile * column_tiles + tile;
  OfFourTile<kStored> held;
  held.load(
      p.codes + at * OfFourTile<kStored>::kValueBytes, words + at * kOfFourPlaceBytes,
      [](const uint8_t* from) { return ptx::load_once(from); },
      [](const uint8_t* from) { return __ldg(reinterpret_cast<const uint2*>(from)); },
      [](const uint8_t* from) { return __ldg(reinterpret_cast<const uint32_t*>(from)); });
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const auto places = held.places_of(half, pair);
      const int64_t column = tile * kOfFourColumns + half * 32 + pair / 2 * 16 + lane % 4 * 4;
      float2 w = held.pair(half, pair);
      if constexpr (kIsCode<kStored>) {
        grids.seek(p, row_tile * kOfFourRows + lane / 4, column);
        w.x = grids.rows[pair % 2].weight(w.x), w.y = grids.rows[pair % 2].weight(w.y);
      }
      if (column + places.low < p.k) visit(pair % 2, column + places.low, w.x);
      if (column + places.high < p.k) visit(pair % 2, column + places.high, w.y);
    }
  }
}

template <SparseStored kStored, int kTokens>
__global__ void __launch_bounds__(kThreads) of_four_vector_kernel(SparseProblem p, const uint8_t* words) {
  __shared__ float partial[kWarps][kOfFourRows][kTokens];
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  const int64_t row_tile = blockIdx.x, first = int64_t(blockIdx.y) * kTokens;
  const int64_t column_tiles = (p.k + kOfFourColumns - 1) / kOfFourColumns;
  const float* x[kTokens];
#pragma unroll
  for (int m = 0; m < kTokens; ++m) x[m] = p.x + (first + m < p.m ? first + m : p.m - 1) * p.x_stride;
  float sums[2][kTokens] = {};
  OfFourGrids grids;
  for (int64_t tile = warp; tile < column_tiles; tile += kWarps) {
    for_kept<kStored>(p, row_tile, tile, column_tiles, words, grids,
                      [&](int low_row, int64_t column, float w) {
#pragma unroll
                        for (int m = 0; m < kTokens; ++m)
                          sums[low_row][m] = fmaf(x[m][column], w, sums[low_row][m]);
                      });
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int m = 0; m < kTokens; ++m) {
      float sum = sums[i][m];
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      if (lane % 4 == 0) partial[warp][lane / 4 + 8 * i][m] = sum;
    }
  }
  __syncthreads();
  for (int i = int(threadIdx.x); i < int(kOfFourRows) * kTokens; i += kThreads) {
    const int64_t n = row_tile * kOfFourRows + i % kOfFourRows, token = first + i / kOfFourRows;
    if (n >= p.n || token >= p.m) continue;
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += partial[w][i % kOfFourRows][i / kOfFourRows];
    sparse_store(p, token, n, total);
  }
}

// One warp per tile; `dense` was cleared.
template <SparseStored kStored, typename Out>
__global__ void __launch_bounds__(kThreads)
    of_four_expand_kernel(SparseProblem p, const uint8_t* words, Out* dense) {
  const int64_t column_tiles = (p.k + kOfFourColumns - 1) / kOfFourColumns;
  const int64_t at = int64_t(blockIdx.x) * kWarps + int(threadIdx.x) / kWarp;
  const int64_t row_tile = at / column_tiles, tile = at % column_tiles;
  if (row_tile * kOfFourRows >= p.n) return;  // whole warps
  const int64_t row = row_tile * kOfFourRows + int(threadIdx.x) % kWarp / 4;
  OfFourGrids grids;
  for_kept<kStored>(p, row_tile, tile, column_tiles, words, grids, [&](int low_row, int64_t column, float w) {
    if (row + 8 * low_row < p.n) dense[(row + 8 * low_row) * p.k + column] = Out(w);
  });
}

const uint8_t* words_of(const SparseForm& form, const SparseProblem& p) {
  const int64_t tiles = (p.n + kOfFourRows - 1) / kOfFourRows * ((p.k + kOfFourColumns - 1) / kOfFourColumns);
  return p.codes + tiles * of_four_value_bytes(form.stored);
}

template <typename Run>
void with_of_four(SparseStored stored, Run run) {
  if (stored == SparseStored::bf16) return run.template operator()<SparseStored::bf16>();
  if (stored == SparseStored::f16) return run.template operator()<SparseStored::f16>();
  if (stored == SparseStored::byte) return run.template operator()<SparseStored::byte>();
  run.template operator()<SparseStored::nibble>();
}

}  // namespace

void launch_of_four_vector(Context& context, const SparseForm& form, const SparseProblem& p) {
  with_of_four(form.stored, [&]<SparseStored kStored>() {
    const auto launch = [&](auto kernel, int64_t tokens) {
      context.launch("sparse_of_four", kernel,
                     {.grid = dim3(blocks_for(p.n, kOfFourRows), blocks_for(p.m, tokens)), .block = kThreads},
                     p, words_of(form, p));
    };
    if (p.m == 1) return launch(of_four_vector_kernel<kStored, 1>, 1);
    launch(of_four_vector_kernel<kStored, 4>, 4);
  });
}

void launch_of_four_expand(Context& context, const SparseForm& form, const SparseProblem& p, DType dtype,
                           void* dense) {
  const int64_t tiles = (p.n + kOfFourRows - 1) / kOfFourRows * ((p.k + kOfFourColumns - 1) / kOfFourColumns);
  const LaunchShape shape{.grid = blocks_for(tiles, kWarps), .block = kThreads};
  context.note(cudaMemsetAsync(dense, 0, size_t(p.n * p.k * dtype_bytes(dtype)), context.stream()),
               "sparse_expand");
  with_of_four(form.stored, [&]<SparseStored kStored>() {
    if (dtype == DType::f32) {
      context.launch("sparse_expand", of_four_expand_kernel<kStored, float>, shape, p, words_of(form, p),
                     static_cast<float*>(dense));
    } else if (dtype == DType::bf16) {
      context.launch("sparse_expand", of_four_expand_kernel<kStored, __nv_bfloat16>, shape, p,
                     words_of(form, p), static_cast<__nv_bfloat16*>(dense));
    } else {
      context.launch("sparse_expand", of_four_expand_kernel<kStored, __half>, shape, p, words_of(form, p),
                     static_cast<__half*>(dense));
    }
  });
}

}  // namespace pare::cuda
