// attention on tensor cores, one block per tile of rows: FlashAttention-2's order of work (Dao, 2023),
// written for rows that are (position, head of the group).
//
// 4 warps have 32 rows each (16 where D = 256) and all keys of a tile: every fragment of keys and values that
// ldmatrix brings serves two mma, without which shared memory would be the limit, and a row's maximum and sum
// stay in one quad of lanes. Keys of the next tile are under way during the softmax and the second product,
// values during the first; At most 255 registers and 64 KB let two blocks share a multiprocessor, so that
// one's softmax overlaps the other's products.
//
// Keys and values come as bf16 by cp.async. Where they are not bf16 already they are converted once per call
// (attention_convert.cu) instead of once per block: with T / 128 blocks per head the second would repeat the
// conversion T / 128 times inside the loop that is short of issue slots.
#include "engine/backends/cuda/attention_convert.h"
#include "engine/backends/cuda/attention_device.cuh"
#include "engine/backends/cuda/attention_tiles.cuh"

namespace pare::cuda {
namespace {

struct PrefillOptions {
  float query_factor;  // of queries before they are rounded
  float factor;        // of scores (capped ones with softcap) to the exponent of 2; > 0
  bool reads_vectors, writes_pairs;
};

template <int D, int Rows>
__device__ __forceinline__ void load_queries(uint16_t* tile, const AttentionCall& a, const AttentionUnit& u,
                                             int first_row, const PrefillOptions& options) {
  constexpr int kPieces = D / 8;
#pragma unroll 2
  for (int i = int(threadIdx.x); i < Rows * kPieces; i += kTensorThreads) {
    const int row = i / kPieces, column = i % kPieces * 8;
    float x[8] = {};
    if (first_row + row < a.rows) {
      load_floats_8(x, a.q + row_offset(a, u, first_row + row, a.q_stride), column, a.head_dim,
                    options.reads_vectors);
    }
    const float f = options.query_factor;
    *reinterpret_cast<uint4*>(tile + row * kTilePitch<D> + column) =
        make_uint4(pack_bf16(x[0] * f, x[1] * f), pack_bf16(x[2] * f, x[3] * f),
                   pack_bf16(x[4] * f, x[5] * f), pack_bf16(x[6] * f, x[7] * f));
  }
}

template <int D, int Tiles>
__global__ void __launch_bounds__(kTensorThreads, 2)
    attention_prefill_kernel(AttentionCall a, Bf16Keys keys, PrefillOptions options, int units,
                             int row_tiles) {
  constexpr int kRows = prefill_rows(D), kKeys = prefill_keys(D), kN = kKeys / 8;
  static_assert(kRows == 4 * 16 * Tiles);
  __shared__ KeyRange ranges[kRows];  // not in registers: those are full, and only tiles at an edge ask
  PARE_SHARED_BYTES(shared);
  uint16_t* q_tile = reinterpret_cast<uint16_t*>(shared);
  uint16_t* k_tile = q_tile + kRows * kTilePitch<D>;
  uint16_t* v_tile = k_tile + kKeys * kTilePitch<D>;

  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  // The last rows see the most keys under a causal mask: they start first.
  const int unit = keys.first_unit + int(blockIdx.x) % units;
  const int first_row = (row_tiles - 1 - int(blockIdx.x) / units) * kRows;
  const AttentionUnit u = attention_unit(a, unit);
  const uint16_t* k = keys.k + keys.offset(a, u, unit);
  const uint16_t* v = keys.v + keys.offset(a, u, unit);

  const KeyRange seen = keys_of_rows(a, u, first_row, kRows);
  int begin = seen.first / kKeys * kKeys;
  copy_tile<D, kKeys, kTensorThreads>(k_tile, k, keys.position_stride, keys.columns, begin, seen.end);
  ptx::cp_async_commit();
  load_queries<D, kRows>(q_tile, a, u, first_row, options);
  if (threadIdx.x < kRows)
    ranges[threadIdx.x] = keys_of_row(a, u, min(first_row + int(threadIdx.x), a.rows - 1));

  const int warp_row = warp * 16 * Tiles;
  const bool has_rows = first_row + warp_row < a.rows;
  float out[Tiles][D / 8][4] = {}, largest[Tiles][2], total[Tiles][2];
#pragma unroll
  for (int t = 0; t < Tiles; ++t) {
    largest[t][0] = largest[t][1] = kNoScore;
    total[t][0] = total[t][1] = 0.0f;
  }

  for (; begin < seen.end; begin += kKeys) {
    ptx::cp_async_wait<0>();
    __syncthreads();  // the keys are there, and nobody reads the values of the tile before any more
    copy_tile<D, kKeys, kTensorThreads>(v_tile, v, keys.position_stride, keys.columns, begin, seen.end);
    ptx::cp_async_commit();

    float score[Tiles][kN][4] = {};
    if (has_rows) multiply_transposed<D>(score, q_tile, warp_row, k_tile);

    ptx::cp_async_wait<0>();
    __syncthreads();  // the values are there, and nobody reads the keys any more
    if (begin + kKeys < seen.end) {
      copy_tile<D, kKeys, kTensorThreads>(k_tile, k, keys.position_stride, keys.columns, begin + kKeys,
                                          seen.end);
      ptx::cp_async_commit();
    }
    if (!has_rows) continue;

    if (a.softcap > 0.0f) {
      const float inner = fabsf(a.scale) / a.softcap;
#pragma unroll
      for (int t = 0; t < Tiles; ++t) {
#pragma unroll
        for (int n = 0; n < kN; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) score[t][n][i] = a.softcap * tanh_fast(score[t][n][i] * inner);
        }
      }
    }
    // Only tiles that not every row of the warp sees whole need the mask.
    if (begin < ranges[warp_row + 16 * Tiles - 1].first || begin + kKeys > ranges[warp_row].end) {
#pragma unroll
      for (int t = 0; t < Tiles; ++t) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const KeyRange range = ranges[warp_row + 16 * t + 8 * h + lane / 4];
#pragma unroll
          for (int n = 0; n < kN; ++n) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              const int key = begin + 8 * n + 2 * (lane % 4) + i;
              if (key < range.first || key >= range.end) score[t][n][2 * h + i] = kNoScore;
            }
          }
        }
      }
    }

    uint32_t weights[Tiles][kN / 2][4];
#pragma unroll
    for (int t = 0; t < Tiles; ++t) {
      float correction[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float top = largest[t][h];
#pragma unroll
        for (int n = 0; n < kN; ++n) top = fmaxf(top, fmaxf(score[t][n][2 * h], score[t][n][2 * h + 1]));
        top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
        top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
        const float base = top == kNoScore ? 0.0f : top * options.factor;
        correction[h] = ptx::exp2_fast(fmaf(largest[t][h], options.factor, -base));
        if (largest[t][h] == top) correction[h] = 1.0f;
        largest[t][h] = top;
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < kN; ++n) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            float& s = score[t][n][2 * h + i];
            s = ptx::exp2_fast(fmaf(s, options.factor, -base));
            sum += s;
          }
        }
        total[t][h] = fmaf(total[t][h], correction[h], sum);
      }
      as_operand_a(weights[t], score[t]);
      if (__any_sync(kAllLanes,
                     correction[0] != 1.0f || correction[1] != 1.0f)) {  // rare after the first tiles
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) out[t][n][i] *= correction[i / 2];
        }
      }
    }
    multiply<D>(out, weights, v_tile);
  }

  if (!has_rows) return;
#pragma unroll
  for (int t = 0; t < Tiles; ++t) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float sum = total[t][h];
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      const float scale = sum == 0.0f ? 0.0f : 1.0f / sum;
      const int row = first_row + warp_row + 16 * t + 8 * h + lane / 4;
      if (row >= a.rows) continue;
      float* target = a.out + row_offset(a, u, row, a.out_stride);
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        const int column = 8 * n + 2 * (lane % 4);
        store_pair(target, column, a.head_dim, out[t][n][2 * h] * scale, out[t][n][2 * h + 1] * scale,
                   options.writes_pairs);
      }
      if (a.log_sum_exp != nullptr && lane % 4 == 0) {
        a.log_sum_exp[log_sum_exp_offset(a, u, row)] =
            sum == 0.0f ? kNoScore : (largest[t][h] * options.factor + log2f(sum)) * kLn2;
      }
    }
  }
}

}  // namespace

void run_attention_prefill(Context& context, const AttentionCall& call, const AttentionPlan& plan) {
  auto* kernel = plan.padded_head_dim == 64    ? attention_prefill_kernel<64, 2>
                 : plan.padded_head_dim == 80  ? attention_prefill_kernel<80, 2>
                 : plan.padded_head_dim == 96  ? attention_prefill_kernel<96, 2>
                 : plan.padded_head_dim == 128 ? attention_prefill_kernel<128, 2>
                                               : attention_prefill_kernel<256, 1>;
  const ScoreFactors factors = score_factors(call.scale, call.softcap);
  const PrefillOptions options{
      .query_factor = factors.query,
      .factor = factors.exponent,
      .reads_vectors = is_aligned(call.q, 16) && call.q_stride % 4 == 0 && call.head_dim % 4 == 0,
      .writes_pairs = is_aligned(call.out, 8) && call.out_stride % 2 == 0 && call.head_dim % 2 == 0};
  for (int64_t first = 0; first < plan.units; first += plan.units_per_pass) {
    const int64_t units = std::min(plan.units_per_pass, plan.units - first);
    const Bf16Keys keys =
        plan.converts ? convert_keys(context, call, plan, first, units) : copyable_keys(call);
    if (keys.k == nullptr) return;  // no memory for copies, which is noted
    context.launch("attention_prefill", kernel,
                   {.grid = blocks_for(units * plan.row_tiles, 1),
                    .block = kTensorThreads,
                    .shared_bytes = plan.shared_bytes},
                   call, keys, options, int(units), int(plan.row_tiles));
  }
}

}  // namespace pare::cuda
