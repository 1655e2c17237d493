// attention with float products: tiles of 64 rows by 64 keys, online softmax, any head size and any form of
// keys.
//
// A block of 256 threads is a grid of 16 x 16; thread (y, x) has rows 4 y .. 4 y + 3 and keys (columns) x, x
// + 16, ... Sums over components and over keys go in rising order and tiles begin at multiples of 64 keys, so
// a row's bytes depend on its own query and the keys that it sees, on nothing else: not on the block, the
// other rows or the strides.
#include "engine/backends/cuda/attention_device.cuh"

namespace pare::cuda {
namespace {

constexpr int kDepth = 32;      // components of queries and keys in shared memory at a time
constexpr int kValueKeys = 16;  // values at a time
constexpr int kPitch = kExactRows + 4;

// Where the block's rows of queries begin; -1 for rows that do not exist.
__device__ __forceinline__ void find_rows(const AttentionCall& a, const AttentionUnit& u, int first_row,
                                          int64_t* offsets) {
  if (threadIdx.x < kExactRows) {
    const int row = first_row + int(threadIdx.x);
    offsets[threadIdx.x] = row < a.rows ? row_offset(a, u, row, a.q_stride) : -1;
  }
}

// Columns: of the output, per block; thread (y, x) has columns x + 16 c.
template <int Columns>
__global__ void __launch_bounds__(kExactThreads)
    attention_exact_kernel(AttentionCall a, int row_tiles, int column_tiles) {
  constexpr int kColumns = Columns / 16, kValuePitch = Columns;
  PARE_SHARED_BYTES(shared);
  float* q_tile = reinterpret_cast<float*>(shared);  // [kDepth][kPitch], transposed
  float* k_tile = q_tile + kDepth * kPitch;          // the same
  float* v_tile = q_tile;                            // [kValueKeys][Columns]
  float* p_tile = k_tile + kDepth * kPitch;          // [kExactKeys][kPitch], transposed
  static_assert(kValueKeys * kValuePitch <= 2 * kDepth * kPitch);
  __shared__ int64_t q_offsets[kExactRows];

  const int tid = int(threadIdx.x), x = tid % 16, y = tid / 16;
  const int column_tile = int(blockIdx.x) % column_tiles, tile = int(blockIdx.x) / column_tiles;
  const AttentionUnit u = attention_unit(a, tile / row_tiles);
  const int first_row = tile % row_tiles * kExactRows, first_column = column_tile * Columns;
  const int64_t keys = keys_offset(a, u), grids = grids_offset(a, u);
  find_rows(a, u, first_row, q_offsets);

  KeyRange range[4];
  float largest[4], total[4], out[4][kColumns];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    range[i] = keys_of_row(a, u, first_row + 4 * y + i);
    largest[i] = kNoScore;
    total[i] = 0.0f;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) out[i][c] = 0.0f;
  }

  const bool has_rows = first_row + 4 * y < a.rows;
  const KeyRange seen = keys_of_rows(a, u, first_row, kExactRows);
  for (int begin = seen.first / kExactKeys * kExactKeys; begin < seen.end; begin += kExactKeys) {
    const int count = min(kExactKeys, seen.end - begin);
    float score[4][4] = {};
    for (int d0 = 0; d0 < a.head_dim; d0 += kDepth) {
      const int depth = min(kDepth, a.head_dim - d0);
      __syncthreads();
      for (int i = tid; i < kExactRows * kDepth; i += kExactThreads) {
        const int row = i / kDepth, d = i % kDepth;
        if (d >= depth) continue;
        q_tile[d * kPitch + row] = q_offsets[row] >= 0 ? a.q[q_offsets[row] + d0 + d] : 0.0f;
        k_tile[d * kPitch + row] =
            row < count ? kv_component(a, true, keys, grids, begin + row, d0 + d) : 0.0f;
      }
      __syncthreads();
#pragma unroll 4
      for (int d = 0; d < depth && has_rows; ++d) {
        const float4 q = *reinterpret_cast<const float4*>(q_tile + d * kPitch + 4 * y);
        const float rows[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (16 * j >= count) break;
          const float k = k_tile[d * kPitch + x + 16 * j];
#pragma unroll
          for (int i = 0; i < 4; ++i) score[i][j] = fmaf(rows[i], k, score[i][j]);
        }
      }
    }

#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float tile_largest = kNoScore;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int key = begin + x + 16 * j;
        float s = score[i][j] * a.scale;
        if (a.softcap > 0.0f) s = a.softcap * tanhf(s / a.softcap);
        score[i][j] = key >= range[i].first && key < range[i].end ? s : kNoScore;
        tile_largest = fmaxf(tile_largest, score[i][j]);
      }
#pragma unroll
      for (int offset = 8; offset > 0; offset /= 2)
        tile_largest = fmaxf(tile_largest, __shfl_xor_sync(kAllLanes, tile_largest, offset));
      const float before = largest[i];
      largest[i] = fmaxf(before, tile_largest);
      const float base =
          largest[i] == kNoScore ? 0.0f : largest[i];  // exp(-inf - 0) is the 0 that it has to be
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        score[i][j] = expf(score[i][j] - base);
        sum += score[i][j];
      }
#pragma unroll
      for (int offset = 8; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
      const float correction = expf(before - base);
      total[i] = fmaf(total[i], correction, sum);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) out[i][c] *= correction;
    }
    // Nobody reads the probabilities of the tile before any more: all have passed the barriers above.
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      *reinterpret_cast<float4*>(p_tile + (x + 16 * j) * kPitch + 4 * y) =
          make_float4(score[0][j], score[1][j], score[2][j], score[3][j]);
    }

    for (int k0 = 0; k0 < count; k0 += kValueKeys) {
      const int values = min(kValueKeys, count - k0);
      __syncthreads();
      for (int i = tid; i < values * Columns; i += kExactThreads) {
        const int key = i / Columns, column = first_column + i % Columns;
        v_tile[key * kValuePitch + i % Columns] =
            column < a.head_dim ? kv_component(a, false, keys, grids, begin + k0 + key, column) : 0.0f;
      }
      __syncthreads();
      for (int key = 0; key < values && has_rows; ++key) {
        const float4 p = *reinterpret_cast<const float4*>(p_tile + (k0 + key) * kPitch + 4 * y);
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          const float v = v_tile[key * kValuePitch + x + 16 * c];
          out[0][c] = fmaf(p.x, v, out[0][c]);
          out[1][c] = fmaf(p.y, v, out[1][c]);
          out[2][c] = fmaf(p.z, v, out[2][c]);
          out[3][c] = fmaf(p.w, v, out[3][c]);
        }
      }
    }
  }

#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = first_row + 4 * y + i;
    if (row >= a.rows) continue;
    float* target = a.out + row_offset(a, u, row, a.out_stride);
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int column = first_column + x + 16 * c;
      if (column < a.head_dim) target[column] = total[i] == 0.0f ? 0.0f : out[i][c] / total[i];
    }
    if (a.log_sum_exp != nullptr && x == 0 && column_tile == 0)
      a.log_sum_exp[log_sum_exp_offset(a, u, row)] = largest[i] + logf(total[i]);
  }
}

}  // namespace

void run_attention_exact(Context& context, const AttentionCall& call, const AttentionPlan& plan) {
  const LaunchShape shape{
      .grid = blocks_for(plan.blocks(), 1), .block = kExactThreads, .shared_bytes = plan.shared_bytes};
  auto* kernel = plan.padded_head_dim == 64    ? attention_exact_kernel<64>
                 : plan.padded_head_dim == 128 ? attention_exact_kernel<128>
                                               : attention_exact_kernel<256>;
  context.launch("attention_exact", kernel, shape, call, int(plan.row_tiles), int(plan.column_tiles));
}

}  // namespace pare::cuda
