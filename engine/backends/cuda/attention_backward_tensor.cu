// The gradients of attention on tensor cores: queries, keys, values and gradients of outputs as bf16 copies,
// scores and gradients in float. 4 warps have 16 keys (or rows) each; tiles of the other side go by in two
// stages of cp.async.
//
// Scores are made transposed where keys own the block, so that weights and their gradients already are in the
// registers where the next product wants its operand a: s^T = k q^T, dp^T = v dout^T, dv += p^T dout, dk +=
// ds^T q; and s = q k^T, dp = dout v^T, dq += ds k where rows do.
#include "engine/backends/cuda/attention_backward.h"
#include "engine/backends/cuda/attention_tiles.cuh"

namespace pare::cuda {
namespace {

constexpr int kOwn = 64;  // keys or rows of a block
// Of the other side, in a stage: what fits the registers beside two sums of 16 x D.
template <int D>
constexpr int kOther = D <= 64 ? 64 : 32;

// The bf16 copies, [units, rows or tokens, D], and log2(e) times the log-sum-exps, [units, rows].
struct Copies {
  uint16_t* q;
  uint16_t* dout;
  uint16_t* k;
  uint16_t* v;
  float* log_sum_exp;
};

constexpr int kCopyThreads = 256;

// A thread writes 8 columns; blockIdx.y: 0 q, 1 dout, 2 k, 3 v.
__global__ void copy_kernel(BackwardCall a, Copies copies, int units, int width, bool reads_vectors) {
  const int64_t i = int64_t(blockIdx.x) * kCopyThreads + threadIdx.x;
  const bool is_row = blockIdx.y < 2;
  const int per_unit = is_row ? a.rows : a.tokens, per_row = width / 8;
  if (i >= int64_t(units) * per_unit * per_row) return;
  const int column = int(i % per_row) * 8, row = int(i / per_row % per_unit);
  const int local = int(i / per_row / per_unit), unit = a.first_unit + local;
  const float* source;
  uint16_t* target;
  if (blockIdx.y == 0) {
    source = a.q + a.row_at(unit, row, a.q_stride);
    target = copies.q;
    if (column == 0) {
      const int64_t heads = int64_t(a.kv_heads) * a.group;
      copies.log_sum_exp[int64_t(local) * a.rows + row] =
          kLog2E * a.log_sum_exp[a.token_of_row(unit, row) * heads + a.head_of_row(unit, row)];
    }
  } else if (blockIdx.y == 1) {
    source = a.dout + a.row_at(unit, row, a.dout_stride);
    target = copies.dout;
  } else {
    source = (blockIdx.y == 2 ? a.k : a.v) + a.key_at(unit, row, a.kv_stride);
    target = blockIdx.y == 2 ? copies.k : copies.v;
  }
  float x[8];
  load_floats_8(x, source, column, a.head_dim, reads_vectors);
  *reinterpret_cast<uint4*>(target + (int64_t(local) * per_unit + row) * width + column) =
      make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
}

// Score and gradient of its weight to weight and gradient of the score.
__device__ __forceinline__ void finish_pair(const BackwardCall& a, float& score, float& gradient,
                                            bool is_seen, float log_sum_exp, float delta) {
  float exponent, slope = 1.0f;
  if (a.softcap > 0.0f) {
    const float capped = tanh_fast(score * (a.scale / a.softcap));
    slope = 1.0f - capped * capped;
    exponent = a.softcap * kLog2E * capped;
  } else {
    exponent = score * (a.scale * kLog2E);
  }
  score = is_seen ? ptx::exp2_fast(exponent - log_sum_exp) : 0.0f;
  gradient = is_seen ? score * (gradient - delta) * slope : 0.0f;
}

// Two tiles side by side: q and dout, or k and v.
template <int D, int Rows>
__device__ __forceinline__ void copy_two(uint16_t* tiles, const uint16_t* first, const uint16_t* second,
                                         int begin, int end) {
  copy_tile<D, Rows, kTensorThreads>(tiles, first, D, D, begin, end);
  copy_tile<D, Rows, kTensorThreads>(tiles + Rows * kTilePitch<D>, second, D, D, begin, end);
}

template <int D>
__global__ void __launch_bounds__(kTensorThreads, 2)
    key_gradients_kernel(BackwardCall a, Copies copies, int key_tiles, bool writes_pairs) {
  constexpr int kRows = kOther<D>, kN = kRows / 8, kStage = 2 * kRows * kTilePitch<D>;
  PARE_SHARED_BYTES(shared);
  uint16_t* k_tile = reinterpret_cast<uint16_t*>(shared);
  uint16_t* v_tile = k_tile + kOwn * kTilePitch<D>;
  uint16_t* stages = v_tile + kOwn * kTilePitch<D>;
  const int lane = int(threadIdx.x) % 32, warp_key = int(threadIdx.x) / 32 * 16;
  const int local = int(blockIdx.x) / key_tiles, first_key = int(blockIdx.x) % key_tiles * kOwn;
  const int unit = a.first_unit + local, end_key = min(first_key + kOwn, a.tokens);
  const uint16_t* q = copies.q + int64_t(local) * a.rows * D;
  const uint16_t* dout = copies.dout + int64_t(local) * a.rows * D;
  const float* log_sum_exp = copies.log_sum_exp + int64_t(local) * a.rows;
  const float* delta = a.delta + int64_t(local) * a.rows;

  const int end_row = a.rows_of(end_key - 1).end;
  int begin = a.rows_of(first_key).first / kRows * kRows;
  copy_two<D, kOwn>(k_tile, copies.k + int64_t(local) * a.tokens * D,
                    copies.v + int64_t(local) * a.tokens * D, first_key, end_key);
  copy_two<D, kRows>(stages, q, dout, begin, end_row);
  ptx::cp_async_commit();
  // Rows that the keys of a lane see (none of a key that does not exist), and those that all keys of the
  // block see.
  KeyRange range[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int key = first_key + warp_key + 8 * h + lane / 4;
    range[h] = key < end_key ? a.rows_of(key) : KeyRange{0, 0};
  }
  const int common_first = a.rows_of(end_key - 1).first;
  const int common_end = end_key == first_key + kOwn ? a.rows_of(first_key).end : 0;

  float dk[1][D / 8][4] = {}, dv[1][D / 8][4] = {};
  for (int stage = 0; begin < end_row; begin += kRows, stage ^= 1) {
    const uint16_t* q_tile = stages + stage * kStage;
    const uint16_t* dout_tile = q_tile + kRows * kTilePitch<D>;
    ptx::cp_async_wait<0>();
    __syncthreads();  // the stage is there, and nobody reads the other any more
    if (begin + kRows < end_row) {
      copy_two<D, kRows>(stages + (stage ^ 1) * kStage, q, dout, begin + kRows, end_row);
      ptx::cp_async_commit();
    }
    float p[1][kN][4] = {}, ds[1][kN][4] = {};
    multiply_transposed<D>(p, k_tile, warp_key, q_tile);
    multiply_transposed<D>(ds, v_tile, warp_key, dout_tile);
    const bool is_whole = begin >= common_first && begin + kRows <= common_end;
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = begin + 8 * n + 2 * (lane % 4) + i;
        const bool is_row = row < end_row;
        const float own_log_sum_exp = is_row ? log_sum_exp[row] : 0.0f,
                    own_delta = is_row ? delta[row] : 0.0f;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const bool is_seen = is_whole || (row >= range[h].first && row < range[h].end);
          finish_pair(a, p[0][n][2 * h + i], ds[0][n][2 * h + i], is_seen, own_log_sum_exp, own_delta);
        }
      }
    }
    uint32_t operand[1][kN / 2][4];
    as_operand_a(operand[0], p[0]);
    multiply<D>(dv, operand, dout_tile);
    as_operand_a(operand[0], ds[0]);
    multiply<D>(dk, operand, q_tile);
  }

#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int key = first_key + warp_key + 8 * h + lane / 4;
    if (key >= end_key) continue;
    const int64_t offset = a.key_at(unit, key, a.dkv_stride);
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      const int column = 8 * n + 2 * (lane % 4);
      store_pair(a.dk + offset, column, a.head_dim, a.scale * dk[0][n][2 * h], a.scale * dk[0][n][2 * h + 1],
                 writes_pairs);
      store_pair(a.dv + offset, column, a.head_dim, dv[0][n][2 * h], dv[0][n][2 * h + 1], writes_pairs);
    }
  }
}

template <int D>
__global__ void __launch_bounds__(kTensorThreads, 2)
    query_gradients_kernel(BackwardCall a, Copies copies, int units, int row_tiles, bool writes_pairs) {
  constexpr int kKeys = kOther<D>, kN = kKeys / 8, kStage = 2 * kKeys * kTilePitch<D>;
  PARE_SHARED_BYTES(shared);
  uint16_t* q_tile = reinterpret_cast<uint16_t*>(shared);
  uint16_t* dout_tile = q_tile + kOwn * kTilePitch<D>;
  uint16_t* stages = dout_tile + kOwn * kTilePitch<D>;
  const int lane = int(threadIdx.x) % 32, warp_row = int(threadIdx.x) / 32 * 16;
  // the last rows see the most keys under a causal mask: they start first
  const int local = int(blockIdx.x) % units, first_row = (row_tiles - 1 - int(blockIdx.x) / units) * kOwn;
  const int unit = a.first_unit + local, end_row = min(first_row + kOwn, a.rows);
  const uint16_t* k = copies.k + int64_t(local) * a.tokens * D;
  const uint16_t* v = copies.v + int64_t(local) * a.tokens * D;

  const int end_key = a.keys_of(end_row - 1).end;
  int begin = a.keys_of(first_row).first / kKeys * kKeys;
  copy_two<D, kOwn>(q_tile, copies.q + int64_t(local) * a.rows * D, copies.dout + int64_t(local) * a.rows * D,
                    first_row, end_row);
  copy_two<D, kKeys>(stages, k, v, begin, end_key);
  ptx::cp_async_commit();
  KeyRange range[2];
  float log_sum_exp[2] = {}, delta[2] = {};
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = first_row + warp_row + 8 * h + lane / 4;
    range[h] = row < end_row ? a.keys_of(row) : KeyRange{0, 0};
    if (row >= end_row) continue;
    log_sum_exp[h] = copies.log_sum_exp[int64_t(local) * a.rows + row];
    delta[h] = a.delta[int64_t(local) * a.rows + row];
  }
  const int common_first = a.keys_of(end_row - 1).first;
  const int common_end = end_row == first_row + kOwn ? a.keys_of(first_row).end : 0;

  float dq[1][D / 8][4] = {};
  for (int stage = 0; begin < end_key; begin += kKeys, stage ^= 1) {
    const uint16_t* k_tile = stages + stage * kStage;
    const uint16_t* v_tile = k_tile + kKeys * kTilePitch<D>;
    ptx::cp_async_wait<0>();
    __syncthreads();  // the stage is there, and nobody reads the other any more
    if (begin + kKeys < end_key) {
      copy_two<D, kKeys>(stages + (stage ^ 1) * kStage, k, v, begin + kKeys, end_key);
      ptx::cp_async_commit();
    }
    float p[1][kN][4] = {}, ds[1][kN][4] = {};
    multiply_transposed<D>(p, q_tile, warp_row, k_tile);
    multiply_transposed<D>(ds, dout_tile, warp_row, v_tile);
    const bool is_whole = begin >= common_first && begin + kKeys <= common_end;
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = begin + 8 * n + 2 * (lane % 4) + i % 2;
        const bool is_seen = is_whole || (key >= range[i / 2].first && key < range[i / 2].end);
        finish_pair(a, p[0][n][i], ds[0][n][i], is_seen, log_sum_exp[i / 2], delta[i / 2]);
      }
    }
    uint32_t operand[1][kN / 2][4];
    as_operand_a(operand[0], ds[0]);
    multiply<D>(dq, operand, k_tile);
  }

#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = first_row + warp_row + 8 * h + lane / 4;
    if (row >= end_row) continue;
    float* target = a.dq + a.row_at(unit, row, a.dq_stride);
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      store_pair(target, 8 * n + 2 * (lane % 4), a.head_dim, a.scale * dq[0][n][2 * h],
                 a.scale * dq[0][n][2 * h + 1], writes_pairs);
    }
  }
}

template <int D>
void launch(Context& context, const BackwardCall& call, const AttentionBackwardPlan& plan,
            const Copies& copies, int64_t units, bool writes_pairs) {
  constexpr size_t kShared = (2 * size_t{kOwn} + 4 * size_t{kOther<D>}) * kTilePitch<D> * sizeof(uint16_t);
  context.launch(
      "attention_backward_keys", key_gradients_kernel<D>,
      {.grid = blocks_for(units * plan.key_tiles, 1), .block = kTensorThreads, .shared_bytes = kShared}, call,
      copies, int(plan.key_tiles), writes_pairs);
  context.launch(
      "attention_backward_queries", query_gradients_kernel<D>,
      {.grid = blocks_for(units * plan.row_tiles, 1), .block = kTensorThreads, .shared_bytes = kShared}, call,
      copies, int(units), int(plan.row_tiles), writes_pairs);
}

}  // namespace

void launch_backward_tensor(Context& context, const BackwardCall& call, const AttentionBackwardPlan& plan,
                            int64_t units, unsigned char* scratch) {
  const auto aligned = [](size_t bytes) { return (bytes + 255) / 256 * 256; };
  const auto count = size_t(plan.units_per_pass), width = size_t(plan.padded_head_dim) * sizeof(uint16_t);
  const size_t floats = count * aligned(size_t(plan.rows) * sizeof(float));
  const size_t rows = count * aligned(size_t(plan.rows) * width),
               keys = count * aligned(size_t(call.tokens) * width);
  unsigned char* at = scratch + floats;  // behind the deltas
  const Copies copies{.q = reinterpret_cast<uint16_t*>(at + floats),
                      .dout = reinterpret_cast<uint16_t*>(at + floats + rows),
                      .k = reinterpret_cast<uint16_t*>(at + floats + 2 * rows),
                      .v = reinterpret_cast<uint16_t*>(at + floats + 2 * rows + keys),
                      .log_sum_exp = reinterpret_cast<float*>(at)};
  const auto fits = [&](const void* p, int64_t stride, int64_t floats_at_once) {
    return is_aligned(p, size_t(floats_at_once) * sizeof(float)) && stride % floats_at_once == 0 &&
           call.head_dim % floats_at_once == 0;
  };
  const bool reads_vectors = fits(call.q, call.q_stride, 4) && fits(call.dout, call.dout_stride, 4) &&
                             fits(call.k, call.kv_stride, 4) && fits(call.v, call.kv_stride, 4);
  const bool writes_pairs = fits(call.dq, call.dq_stride, 2) && fits(call.dk, call.dkv_stride, 2) &&
                            fits(call.dv, call.dkv_stride, 2);
  context.launch("attention_backward_copy", copy_kernel,
                 {.grid = dim3(blocks_for(units * plan.rows * (plan.padded_head_dim / 8), kCopyThreads), 4),
                  .block = kCopyThreads},
                 call, copies, int(units), plan.padded_head_dim, reads_vectors);
  switch (plan.padded_head_dim) {
    case 64:
      return launch<64>(context, call, plan, copies, units, writes_pairs);
    case 80:
      return launch<80>(context, call, plan, copies, units, writes_pairs);
    case 96:
      return launch<96>(context, call, plan, copies, units, writes_pairs);
    default:
      return launch<128>(context, call, plan, copies, units, writes_pairs);
  }
}

}  // namespace pare::cuda
