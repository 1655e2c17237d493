// The gradients of attention with float products, any head size. Blocks as in attention_exact.cu: 256
// threads, 16 x 16, tiles of 64 x 64 pairs of (row, key). A block has some columns of the gradients; wider
// heads take several blocks, which compute the scores again. Sums run over components, then over tiles in
// rising order.
#include "engine/backends/cuda/attention_backward.h"

namespace pare::cuda {
namespace {

constexpr int kThreads = 256, kTile = 64, kDepth = 32, kPitch = kTile + 4, kStrip = 16;

// Shared memory: four slices of 32 components, later two strips of 16 rows; two tiles of pairs.
struct Shared {
  float* slices;  // 4 x [kDepth][kPitch]
  float* strips;  // in the same place: 2 x [kStrip][Columns]
  float* p;       // [kTile][kPitch]: minor index first
  float* ds;
};
constexpr size_t kSharedBytes = (4 * size_t{kDepth} + 2 * size_t{kTile}) * kPitch * sizeof(float);
static_assert(2 * kStrip * 128 <= 4 * kDepth * kPitch);

__device__ __forceinline__ Shared shared_of(unsigned char* bytes) {
  float* floats = reinterpret_cast<float*>(bytes);
  return {floats, floats, floats + 4 * kDepth * kPitch, floats + (4 * kDepth + kTile) * kPitch};
}

// Which rows and keys a block works on.
struct Pairs {
  int unit, first_row, rows, first_key, keys;  // rows and keys that exist, at most kTile
};

// One of the four matrices, by number: 0 q, 1 dout (of rows), 2 k, 3 v (of keys).
__device__ __forceinline__ float component(const BackwardCall& a, const Pairs& at, int matrix, int i, int d) {
  if (matrix < 2) {
    if (i >= at.rows) return 0.0f;
    return matrix == 0 ? a.q[a.row_at(at.unit, at.first_row + i, a.q_stride) + d]
                       : a.dout[a.row_at(at.unit, at.first_row + i, a.dout_stride) + d];
  }
  if (i >= at.keys) return 0.0f;
  return (matrix == 2 ? a.k : a.v)[a.key_at(at.unit, at.first_key + i, a.kv_stride) + d];
}

// p and ds of thread (y, x): major 4 y + i, minor x + 16 j. Keys are the major ones where KeysAreMajor, else
// rows.
template <bool KeysAreMajor>
__device__ __forceinline__ void pairs_of(float (&p)[4][4], float (&ds)[4][4], const BackwardCall& a,
                                         const Pairs& at, const Shared& shared) {
  const int tid = int(threadIdx.x), x = tid % 16, y = tid / 16;
  constexpr int kSlice = kDepth * kPitch;
  const int majors = KeysAreMajor ? at.keys : at.rows, minors = KeysAreMajor ? at.rows : at.keys;
  // of scores: q and k; of the gradients of weights: dout and v
  const float* major = shared.slices + (KeysAreMajor ? 2 : 0) * kSlice;
  const float* minor = shared.slices + (KeysAreMajor ? 0 : 2) * kSlice;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) p[i][j] = ds[i][j] = 0.0f;
  }
  for (int d0 = 0; d0 < a.head_dim; d0 += kDepth) {
    const int depth = min(kDepth, a.head_dim - d0);
    __syncthreads();
    for (int i = tid; i < 4 * kTile * kDepth; i += kThreads) {
      const int matrix = i / (kTile * kDepth), row = i / kDepth % kTile, d = i % kDepth;
      if (d < depth)
        shared.slices[matrix * kSlice + d * kPitch + row] = component(a, at, matrix, row, d0 + d);
    }
    __syncthreads();
#pragma unroll 2
    for (int d = 0; d < depth && 4 * y < majors; ++d) {
      const float4 first = *reinterpret_cast<const float4*>(major + d * kPitch + 4 * y);
      const float4 second = *reinterpret_cast<const float4*>(major + kSlice + d * kPitch + 4 * y);
      const float left[4] = {first.x, first.y, first.z, first.w},
                  right[4] = {second.x, second.y, second.z, second.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (16 * j >= minors) break;
        const float m = minor[d * kPitch + x + 16 * j], n = minor[kSlice + d * kPitch + x + 16 * j];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          p[i][j] = fmaf(left[i], m, p[i][j]);
          ds[i][j] = fmaf(right[i], n, ds[i][j]);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = KeysAreMajor ? x + 16 * j : 4 * y + i, key = KeysAreMajor ? 4 * y + i : x + 16 * j;
      const int global_row = at.first_row + row, global_key = at.first_key + key;
      float weight = 0.0f, gradient = 0.0f;
      if (row < at.rows && key < at.keys) {
        const KeyRange range = a.keys_of(global_row);
        if (global_key >= range.first && global_key < range.end) {
          float score = p[i][j] * a.scale, slope = 1.0f;
          if (a.softcap > 0.0f) {
            const float capped = tanhf(score / a.softcap);
            score = a.softcap * capped;
            slope = 1.0f - capped * capped;
          }
          const int64_t heads = int64_t(a.kv_heads) * a.group;
          const int64_t at_row =
              a.token_of_row(at.unit, global_row) * heads + a.head_of_row(at.unit, global_row);
          weight = expf(score - a.log_sum_exp[at_row]);
          gradient =
              weight * (ds[i][j] - a.delta[int64_t(at.unit - a.first_unit) * a.rows + global_row]) * slope;
        }
      }
      p[i][j] = weight;
      ds[i][j] = gradient;
    }
  }
}

__device__ __forceinline__ void store_tile(float* tile, const float (&values)[4][4]) {
  const int x = int(threadIdx.x) % 16, y = int(threadIdx.x) / 16;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    *reinterpret_cast<float4*>(tile + (x + 16 * j) * kPitch + 4 * y) =
        make_float4(values[0][j], values[1][j], values[2][j], values[3][j]);
  }
}

// sums[i][c] += sum over the minor index m of tile[m][4 y + i] * strip[m][x + 16 c]
template <int Columns>
__device__ __forceinline__ void add_strip(float (&sums)[4][Columns / 16], const float* tile,
                                          const float* strip, int count, int majors) {
  const int x = int(threadIdx.x) % 16, y = int(threadIdx.x) / 16;
  for (int m = 0; m < count && 4 * y < majors; ++m) {
    const float4 w = *reinterpret_cast<const float4*>(tile + m * kPitch + 4 * y);
#pragma unroll
    for (int c = 0; c < Columns / 16; ++c) {
      const float v = strip[m * Columns + x + 16 * c];
      sums[0][c] = fmaf(w.x, v, sums[0][c]);
      sums[1][c] = fmaf(w.y, v, sums[1][c]);
      sums[2][c] = fmaf(w.z, v, sums[2][c]);
      sums[3][c] = fmaf(w.w, v, sums[3][c]);
    }
  }
}

template <int Columns>
__device__ __forceinline__ void load_strip(float* strip, const BackwardCall& a, const Pairs& at, int matrix,
                                           int first, int count, int first_column) {
  for (int i = int(threadIdx.x); i < count * Columns; i += kThreads) {
    const int d = first_column + i % Columns;
    strip[i] = d < a.head_dim ? component(a, at, matrix, first + i / Columns, d) : 0.0f;
  }
}

template <int Columns>
__global__ void __launch_bounds__(kThreads)
    key_gradients_kernel(BackwardCall a, int key_tiles, int column_tiles) {
  PARE_SHARED_BYTES(bytes);
  const Shared shared = shared_of(bytes);
  const int x = int(threadIdx.x) % 16, y = int(threadIdx.x) / 16;
  const int first_column = int(blockIdx.x) % column_tiles * Columns, tile = int(blockIdx.x) / column_tiles;
  const int first_key = tile % key_tiles * kTile;
  Pairs at{a.first_unit + tile / key_tiles, 0, 0, first_key, min(kTile, a.tokens - first_key)};
  const int end_row = a.rows_of(first_key + at.keys - 1).end;
  float dk[4][Columns / 16] = {}, dv[4][Columns / 16] = {}, p[4][4], ds[4][4];
  for (int first_row = a.rows_of(first_key).first / kTile * kTile; first_row < end_row; first_row += kTile) {
    at.first_row = first_row;
    at.rows = min(kTile, end_row - first_row);
    pairs_of<true>(p, ds, a, at, shared);
    store_tile(shared.p, p);
    store_tile(shared.ds, ds);
    for (int m = 0; m < at.rows; m += kStrip) {
      const int count = min(kStrip, at.rows - m);
      __syncthreads();
      load_strip<Columns>(shared.strips, a, at, 1, m, count, first_column);
      load_strip<Columns>(shared.strips + kStrip * Columns, a, at, 0, m, count, first_column);
      __syncthreads();
      add_strip<Columns>(dv, shared.p + m * kPitch, shared.strips, count, at.keys);
      add_strip<Columns>(dk, shared.ds + m * kPitch, shared.strips + kStrip * Columns, count, at.keys);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (4 * y + i >= at.keys) continue;
    const int64_t offset = a.key_at(at.unit, first_key + 4 * y + i, a.dkv_stride);
#pragma unroll
    for (int c = 0; c < Columns / 16; ++c) {
      const int column = first_column + x + 16 * c;
      if (column >= a.head_dim) continue;
      a.dk[offset + column] = a.scale * dk[i][c];
      a.dv[offset + column] = dv[i][c];
    }
  }
}

template <int Columns>
__global__ void __launch_bounds__(kThreads)
    query_gradients_kernel(BackwardCall a, int row_tiles, int column_tiles) {
  PARE_SHARED_BYTES(bytes);
  const Shared shared = shared_of(bytes);
  const int x = int(threadIdx.x) % 16, y = int(threadIdx.x) / 16;
  const int first_column = int(blockIdx.x) % column_tiles * Columns, tile = int(blockIdx.x) / column_tiles;
  const int first_row = tile % row_tiles * kTile;
  Pairs at{a.first_unit + tile / row_tiles, first_row, min(kTile, a.rows - first_row), 0, 0};
  const int end_key = a.keys_of(first_row + at.rows - 1).end;
  float dq[4][Columns / 16] = {}, p[4][4], ds[4][4];
  for (int first_key = a.keys_of(first_row).first / kTile * kTile; first_key < end_key; first_key += kTile) {
    at.first_key = first_key;
    at.keys = min(kTile, end_key - first_key);
    pairs_of<false>(p, ds, a, at, shared);
    store_tile(shared.ds, ds);
    for (int m = 0; m < at.keys; m += kStrip) {
      const int count = min(kStrip, at.keys - m);
      __syncthreads();
      load_strip<Columns>(shared.strips, a, at, 2, m, count, first_column);
      __syncthreads();
      add_strip<Columns>(dq, shared.ds + m * kPitch, shared.strips, count, at.rows);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (4 * y + i >= at.rows) continue;
    float* target = a.dq + a.row_at(at.unit, first_row + 4 * y + i, a.dq_stride);
#pragma unroll
    for (int c = 0; c < Columns / 16; ++c) {
      const int column = first_column + x + 16 * c;
      if (column < a.head_dim) target[column] = a.scale * dq[i][c];
    }
  }
}

}  // namespace

void launch_backward_exact(Context& context, const BackwardCall& call, const AttentionBackwardPlan& plan,
                           int64_t units) {
  const bool is_narrow = plan.padded_head_dim == 64;
  const int column_tiles = int(plan.column_tiles);
  context.launch("attention_backward_keys", is_narrow ? key_gradients_kernel<64> : key_gradients_kernel<128>,
                 {.grid = blocks_for(units * plan.key_tiles * column_tiles, 1),
                  .block = kThreads,
                  .shared_bytes = kSharedBytes},
                 call, int(plan.key_tiles), column_tiles);
  context.launch("attention_backward_queries",
                 is_narrow ? query_gradients_kernel<64> : query_gradients_kernel<128>,
                 {.grid = blocks_for(units * plan.row_tiles * column_tiles, 1),
                  .block = kThreads,
                  .shared_bytes = kSharedBytes},
                 call, int(plan.row_tiles), column_tiles);
}

}  // namespace pare::cuda
