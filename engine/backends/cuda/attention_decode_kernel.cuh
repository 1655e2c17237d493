// engine/backends/cuda/attention_decode_kernel.cuh: few queries over many keys.
//
// A block has up to 16 rows of a unit, the whole group of a key/value head where it fits, and a share of the
// keys; each of its 4 warps takes 16 keys at a time. Per step a warp has up to 8 KB of keys and values
// (head_dim 128, bf16) under way, the keys of the next step being asked for before the softmax of this one.
// Scores are q k^T with the rows as operand a; the weights then are in the registers where operand b of out^T
// = v^T p^T wants them, so 8 rows take 8 columns of the product and half the registers.
#pragma once

#include "engine/backends/cuda/attention_decode_rows.cuh"

namespace pare::cuda {

struct DecodeOptions {
  float query_factor, factor;  // as in the prefill
  bool keys_vectors, values_vectors;
  int row_tiles, splits;
  // With splits > 1, for each (unit, row) and split: output before it is divided, maximum times factor, sum.
  float* partial_out;
  float* partial_largest;
  float* partial_total;
};

constexpr int kDecodeWarps = kTensorThreads / 32;

template <KvForm Form, int D, int Rows>
struct DecodeWarp {
  using Layout = RowLayout<Form, D>;
  static constexpr int kHalves = Rows / 8;  // of 8 rows
  uint32_t keys[2][Layout::kKeyChunks][Layout::kKeyWords];
  uint32_t values[4][Layout::kValueChunks][Layout::kValueWords];
  float out[D / 16][kHalves][4] = {};
  float largest[kHalves], total[kHalves];

  __device__ __forceinline__ void load_keys(const AttentionCall& a, const uint8_t* k, int64_t stride,
                                            int base, int end, bool vectors) {
    const int g = int(threadIdx.x) % 32 / 4, t = int(threadIdx.x) % 4;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int key = base + 8 * n + g;
#pragma unroll
      for (int c = 0; c < Layout::kKeyChunks; ++c) {
        const int first = (4 * c + t) * Layout::kKeyWords;
        if (key < end) {
          load_words<Form, D>(keys[n][c], k + int64_t(key) * stride, first, a.head_dim, vectors);
        } else {
#pragma unroll
          for (int w = 0; w < Layout::kKeyWords; ++w) keys[n][c][w] = 0;
        }
      }
    }
  }

  __device__ __forceinline__ void load_values(const AttentionCall& a, const uint8_t* v, int64_t stride,
                                              int base, int end, bool vectors) {
    const int g = int(threadIdx.x) % 32 / 4, t = int(threadIdx.x) % 4;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int key = base + 2 * t + j % 2 + j / 2 * 8;
#pragma unroll
      for (int c = 0; c < Layout::kValueChunks; ++c) {
        const int first = (8 * c + g) * Layout::kValueWords;
        if (key < end) {
          load_words<Form, D>(values[j][c], v + int64_t(key) * stride, first, a.head_dim, vectors);
        } else {
#pragma unroll
          for (int w = 0; w < Layout::kValueWords; ++w) values[j][c][w] = 0;
        }
      }
    }
  }

  // score[n][i]: row g (i < 2) or g + 8, key 8 n + 2 t + i % 2. Queries: fragments in shared memory.
  __device__ __forceinline__ void multiply_keys(float (&score)[2][4], const uint32_t* queries,
                                                uint32_t grid) const {
    const int lane = int(threadIdx.x) % 32;
    constexpr int kPairs = Layout::kKeyWords * Layout::kExpand;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const uint32_t zero =
          Form == KvForm::int4 ? zero_of(__shfl_sync(kAllLanes, grid, 8 * n + lane / 4)) : 0;
#pragma unroll
      for (int c = 0; c < Layout::kKeyChunks; ++c) {
        uint32_t pairs[kPairs];
#pragma unroll
        for (int w = 0; w < Layout::kKeyWords; ++w)
          expand_word(pairs + w * Layout::kExpand, keys[n][c][w], zero);
#pragma unroll
        for (int p = 0; p < kPairs; p += 2) {
          const int step = (c * kPairs + p) / 2;
          uint32_t left[4] = {};
          if constexpr (kHalves == 1) {
            const uint2 q = reinterpret_cast<const uint2*>(queries)[step * 32 + lane];
            left[0] = q.x;
            left[2] = q.y;
          } else {
            const uint4 q = reinterpret_cast<const uint4*>(queries)[step * 32 + lane];
            left[0] = q.x;
            left[1] = q.y;
            left[2] = q.z;
            left[3] = q.w;
          }
          const uint32_t right[2] = {pairs[p], pairs[p + 1]};
          ptx::mma_bf16(score[n], left, right);
        }
      }
    }
  }

  // out += values^T weights^T; weights[h] is operand b of rows 8 h .. 8 h + 7.
  __device__ __forceinline__ void multiply_values(const uint32_t (&weights)[kHalves][2], uint32_t grid) {
    const int t = int(threadIdx.x) % 4;
    uint32_t zeros[4] = {};
    if constexpr (Form == KvForm::int4) {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        zeros[j] = zero_of(__shfl_sync(kAllLanes, grid, 16 + 2 * t + j % 2 + j / 2 * 8));
    }
#pragma unroll
    for (int c = 0; c < Layout::kValueChunks; ++c) {
#pragma unroll
      for (int w = 0; w < Layout::kValueWords; ++w) {
        uint32_t pairs[4][Layout::kExpand];
#pragma unroll
        for (int j = 0; j < 4; ++j) expand_word(pairs[j], values[j][c][w], zeros[j]);
#pragma unroll
        for (int e = 0; e < Layout::kExpand; ++e) {
          const uint32_t left[4] = {
              __byte_perm(pairs[0][e], pairs[1][e], 0x5410), __byte_perm(pairs[0][e], pairs[1][e], 0x7632),
              __byte_perm(pairs[2][e], pairs[3][e], 0x5410), __byte_perm(pairs[2][e], pairs[3][e], 0x7632)};
#pragma unroll
          for (int h = 0; h < kHalves; ++h)
            ptx::mma_bf16(out[(c * Layout::kValueWords + w) * Layout::kExpand + e][h], left, weights[h]);
        }
      }
    }
  }

  __device__ __forceinline__ static void expand_word(uint32_t* pairs, uint32_t word, uint32_t zero) {
    pairs[0] = expand<Form, 0>(word, zero);
    if constexpr (Layout::kExpand > 1) pairs[1] = expand<Form, 1>(word, zero);
    if constexpr (Layout::kExpand > 2) {
      pairs[2] = expand<Form, 2>(word, zero);
      pairs[3] = expand<Form, 3>(word, zero);
    }
  }
};

// Scales and zero points of 16 keys in lanes 0 .. 15 and of their values in the others; 0 beyond `end`.
template <KvForm Form>
__device__ __forceinline__ uint32_t load_grid(const AttentionCall& a, int64_t grids, int base, int end) {
  if constexpr (Form != KvForm::int8 && Form != KvForm::int4) return 0;
  const int lane = int(threadIdx.x) % 32, key = base + lane % 16;
  if (key >= end) return 0;
  uint32_t grid = (lane < 16 ? a.k_scales : a.v_scales)[grids + key];
  if constexpr (Form == KvForm::int4)
    grid |= uint32_t((lane < 16 ? a.k_zeros : a.v_zeros)[grids + key]) << 16;
  return grid;
}

// Queries as operands a, in the order of components that the keys come in.
template <KvForm Form, int D, int Rows>
__device__ __forceinline__ void load_query_operands(uint32_t* operands, const AttentionCall& a,
                                                    const AttentionUnit& u, int first_row, float factor) {
  using Layout = RowLayout<Form, D>;
  constexpr int kHalves = Rows / 8, kPairs = Layout::kKeyWords * Layout::kExpand;
  for (int i = int(threadIdx.x); i < D / 16 * 32; i += kTensorThreads) {
    const int step = i / 32, g = i % 32 / 4, t = i % 4;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      const int row = first_row + 8 * h + g;
      const float* q = row < a.rows ? a.q + row_offset(a, u, row, a.q_stride) : nullptr;
#pragma unroll
      for (int p = 0; p < 2; ++p) {
        const int pair = 2 * step + p, chunk = pair / kPairs, within = pair % kPairs;
        const int word = (4 * chunk + t) * Layout::kKeyWords + within / Layout::kExpand;
        float x[2];
#pragma unroll
        for (int high = 0; high < 2; ++high) {
          const int d = Layout::component(word, within % Layout::kExpand, high, a.head_dim);
          x[high] = q != nullptr && d >= 0 ? q[d] * factor : 0.0f;
        }
        operands[i * 2 * kHalves + p * kHalves + h] = pack_bf16(x[0], x[1]);
      }
    }
  }
}

template <KvForm Form, int D, int Rows>
__global__ void __launch_bounds__(kTensorThreads, D + Rows <= 136 ? 3 : 2)
    attention_decode_kernel(AttentionCall a, DecodeOptions options) {
  using Warp = DecodeWarp<Form, D, Rows>;
  using Layout = typename Warp::Layout;
  constexpr int kHalves = Warp::kHalves, kPitch = D + 4;
  // Both keys and values in registers, or values only after the keys are used.
  constexpr bool kEarlyValues = D <= 128 || Layout::kIsCode;
  PARE_SHARED_BYTES(shared);
  uint32_t* queries = reinterpret_cast<uint32_t*>(shared);
  float* warp_out =
      reinterpret_cast<float*>(shared);  // [warps][Rows][kPitch], when the queries are done with
  float* warp_largest = warp_out + kDecodeWarps * Rows * kPitch;  // [warps][Rows]
  float* warp_total = warp_largest + kDecodeWarps * Rows;
  ptx::wait_for_predecessor();
  ptx::release_successor();

  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, g = lane / 4, t = lane % 4;
  const int split = int(blockIdx.x) % options.splits, tile = int(blockIdx.x) / options.splits;
  const int unit = tile / options.row_tiles, first_row = tile % options.row_tiles * Rows;
  const AttentionUnit u = attention_unit(a, unit);
  const KeyRange seen = keys_of_rows(a, u, first_row, Rows);
  // Equal shares of what is there, in whole rounds of the block.
  constexpr int kRound = kDecodeWarps * kDecodeStep;
  const int count = max(0, seen.end - seen.first);
  const int share = (count + options.splits * kRound - 1) / (options.splits * kRound) * kRound;
  const int begin = seen.first + split * share, end = min(begin + share, seen.end);

  Warp state;
#pragma unroll
  for (int h = 0; h < kHalves; ++h) {
    state.largest[h] = kNoScore;
    state.total[h] = 0.0f;
  }
  if (begin < end) {
    constexpr int64_t kBytes = Form == KvForm::f32 ? 4 : Form == KvForm::bf16 ? 2 : 1;
    const int64_t offset = keys_offset(a, u) * kBytes, stride = a.kv_position_stride * kBytes;
    const uint8_t* k = static_cast<const uint8_t*>(a.k) + offset;
    const uint8_t* v = static_cast<const uint8_t*>(a.v) + offset;
    const int64_t grids = grids_offset(a, u);
    int base = begin + warp * kDecodeStep;
    state.load_keys(a, k, stride, base, end, options.keys_vectors);
    uint32_t grid = load_grid<Form>(a, grids, base, end);
    load_query_operands<Form, D, Rows>(queries, a, u, first_row, options.query_factor);
    KeyRange range[kHalves];
#pragma unroll
    for (int h = 0; h < kHalves; ++h) range[h] = keys_of_row(a, u, first_row + 8 * h + g);
    __syncthreads();

    for (; base < end; base += kRound) {
      if constexpr (kEarlyValues) state.load_values(a, v, stride, base, end, options.values_vectors);
      float score[2][4] = {};
      state.multiply_keys(score, queries, grid);
      if constexpr (!kEarlyValues) state.load_values(a, v, stride, base, end, options.values_vectors);
      const uint32_t value_grid = grid;
      float value_scale[2][2] = {{1.0f, 1.0f}, {1.0f, 1.0f}};
      if constexpr (Layout::kIsCode) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const float scale = scale_of(__shfl_sync(kAllLanes, grid, 8 * n + 2 * t + i));
            value_scale[n][i] = scale_of(__shfl_sync(kAllLanes, grid, 16 + 8 * n + 2 * t + i));
            score[n][i] *= scale;
            score[n][2 + i] *= scale;
          }
        }
      }
      if constexpr (kEarlyValues) {
        state.load_keys(a, k, stride, base + kRound, end, options.keys_vectors);
        grid = load_grid<Form>(a, grids, base + kRound, end);
      }

      uint32_t weights[kHalves][2];
      float correction[kHalves];
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        float top = state.largest[h];
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            float& s = score[n][2 * h + i];
            if (a.softcap > 0.0f) s = a.softcap * tanh_fast(s * (fabsf(a.scale) / a.softcap));
            const int key = base + 8 * n + 2 * t + i;
            if (key < range[h].first || key >= min(range[h].end, end)) s = kNoScore;
            top = fmaxf(top, s);
          }
        }
        top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
        top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
        const float shift = top == kNoScore ? 0.0f : top * options.factor;
        correction[h] =
            state.largest[h] == top ? 1.0f : ptx::exp2_fast(fmaf(state.largest[h], options.factor, -shift));
        state.largest[h] = top;
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          float p[2];
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            p[i] = ptx::exp2_fast(fmaf(score[n][2 * h + i], options.factor, -shift));
            sum += p[i];
          }
          weights[h][n] = pack_bf16(p[0] * value_scale[n][0], p[1] * value_scale[n][1]);
        }
        state.total[h] = fmaf(state.total[h], correction[h], sum);
        if (__any_sync(kAllLanes, correction[h] != 1.0f)) {
          // rows 2 t and 2 t + 1 of the outputs; their maxima are kept by the lanes with g = 2 t and 2 t + 1
          const float even = __shfl_sync(kAllLanes, correction[h], 8 * t);
          const float odd = __shfl_sync(kAllLanes, correction[h], 8 * t + 4);
#pragma unroll
          for (int m = 0; m < D / 16; ++m) {
            state.out[m][h][0] *= even;
            state.out[m][h][1] *= odd;
            state.out[m][h][2] *= even;
            state.out[m][h][3] *= odd;
          }
        }
      }
      state.multiply_values(weights, value_grid);
      if constexpr (!kEarlyValues) {
        state.load_keys(a, k, stride, base + kRound, end, options.keys_vectors);
        grid = load_grid<Form>(a, grids, base + kRound, end);
      }
    }
    __syncthreads();  // nobody reads the queries any more
  }

  // Maxima, sums and outputs of the warps side by side, then added in their order.
#pragma unroll
  for (int h = 0; h < kHalves; ++h) {
    float sum = state.total[h];
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    if (t == 0) {
      warp_largest[warp * Rows + 8 * h + g] =
          state.largest[h] == kNoScore ? kNoScore : state.largest[h] * options.factor;
      warp_total[warp * Rows + 8 * h + g] = sum;
    }
#pragma unroll
    for (int m = 0; m < D / 16; ++m) {
      constexpr int kPairs = Layout::kValueWords * Layout::kExpand;
      const int word = (8 * (m / kPairs) + g) * Layout::kValueWords + m % kPairs / Layout::kExpand;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int d = Layout::component(word, m % Layout::kExpand, i / 2, a.head_dim);
        if (d >= 0) warp_out[(warp * Rows + 8 * h + 2 * t + i % 2) * kPitch + d] = state.out[m][h][i];
      }
    }
  }
  __syncthreads();
  for (int i = int(threadIdx.x); i < Rows * a.head_dim; i += kTensorThreads) {
    const int within = i / a.head_dim, d = i % a.head_dim, row = first_row + within;
    if (row >= a.rows) continue;
    float largest = kNoScore, total = 0.0f, sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) largest = fmaxf(largest, warp_largest[w * Rows + within]);
    if (largest != kNoScore) {
#pragma unroll
      for (int w = 0; w < kDecodeWarps; ++w) {
        const float weight = ptx::exp2_fast(warp_largest[w * Rows + within] - largest);
        total = fmaf(weight, warp_total[w * Rows + within], total);
        sum = fmaf(weight, warp_out[(w * Rows + within) * kPitch + d], sum);
      }
    }
    if (options.splits == 1) {
      a.out[row_offset(a, u, row, a.out_stride) + d] = total == 0.0f ? 0.0f : sum / total;
      continue;
    }
    const int64_t part = (int64_t(unit) * a.rows + row) * options.splits + split;
    options.partial_out[part * a.head_dim + d] = sum;
    if (d == 0) {
      options.partial_largest[part] = largest;
      options.partial_total[part] = total;
    }
  }
}

// One form of keys; the others are in files of their own, since each takes long to compile.
template <KvForm Form>
void launch_attention_decode(Context& context, const AttentionCall& call, const AttentionPlan& plan,
                             const DecodeOptions& options, bool is_dependent) {
  using Kernel = void (*)(AttentionCall, DecodeOptions);
  const bool is_8 = plan.tile_rows == 8;
  const Kernel kernel = plan.padded_head_dim == 64 ? (is_8 ? Kernel{attention_decode_kernel<Form, 64, 8>}
                                                           : Kernel{attention_decode_kernel<Form, 64, 16>})
                        : plan.padded_head_dim == 128
                            ? (is_8 ? Kernel{attention_decode_kernel<Form, 128, 8>}
                                    : Kernel{attention_decode_kernel<Form, 128, 16>})
                            : Kernel{attention_decode_kernel<Form, 256, 8>};
  context.launch("attention_decode", kernel,
                 {.grid = blocks_for(plan.blocks(), 1),
                  .block = kTensorThreads,
                  .shared_bytes = plan.shared_bytes,
                  .is_dependent = is_dependent},
                 call, options);
}

// Whether rows of both strides can be loaded in pieces of `bytes`.
inline bool rows_are_aligned(const AttentionCall& call, int64_t element_bytes, size_t bytes) {
  const auto fits = [&](int64_t stride) { return stride * element_bytes % int64_t(bytes) == 0; };
  return is_aligned(call.k, bytes) && is_aligned(call.v, bytes) && fits(call.kv_position_stride) &&
         fits(call.kv_head_stride) && fits(call.kv_sequence_stride);
}

void launch_attention_decode_f32(Context&, const AttentionCall&, const AttentionPlan&, const DecodeOptions&,
                                 bool);
void launch_attention_decode_bf16(Context&, const AttentionCall&, const AttentionPlan&, const DecodeOptions&,
                                  bool);
void launch_attention_decode_int8(Context&, const AttentionCall&, const AttentionPlan&, const DecodeOptions&,
                                  bool);
void launch_attention_decode_int4(Context&, const AttentionCall&, const AttentionPlan&, const DecodeOptions&,
                                  bool);

}  // namespace pare::cuda
