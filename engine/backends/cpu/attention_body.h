// engine/backends/cpu/attention_body.h: attention over blocks of keys with an online softmax.
//
//   for each block of 64 keys:  S = Q K^T,  m' = max(m, rowmax S),  P = 2^(S - m'),  c = 2^(m - m'),
//                               l = c l + rowsum P,  O = c O + P V;      out = O / l
//
// Scores are in base 2: scale * log2(e) is folded into Q. Both products are register tiles of kTileRows x
// kTileVecs vectors; K is transposed once per block for all rows of the item. Every row sees the same
// sequence of operations whatever rows share its item, so results do not depend on the number of queries in a
// call. Source: Dao et al., "FlashAttention-2" (2023).
#pragma once

#include <math.h>
#include <stddef.h>

#include "engine/backends/cpu/attention_plan.h"
#include "engine/tensor/backend.h"

namespace pare::cpu::PARE_ISA_NAMESPACE {

constexpr int64_t kKeys = kAttentionKeys;
constexpr float kLog2E = 1.44269504f;

PARE_INLINE int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}
PARE_INLINE int64_t larger(int64_t a, int64_t b) {
  return a > b ? a : b;
}

// The rows of one item, and where they lie in the arguments.
struct AttentionRows {
  const float* q;  // row of the first position, first head of the item
  float* out;
  float* log_sum_exp;  // [positions, all heads] from the first row on; null: not wanted
  const float* k;      // of the sequence and key/value head; null for codes
  const float* v;
  int64_t codes_offset, grids_offset;  // of the same, for codes
  int64_t heads, positions, count;     // count = heads * positions; row = position * heads + head
  int64_t first_position;              // in the sequence, query_offset included

  int64_t position(int64_t row) const { return first_position + row / heads; }
  int64_t q_offset(int64_t row, int64_t stride, int64_t head_dim) const {
    return (row / heads) * stride + (row % heads) * head_dim;
  }
};

PARE_INLINE AttentionRows attention_rows(const AttentionArgs& a, const AttentionPlan& plan, int64_t item) {
  // Later positions see more keys; starting with them keeps the last items short.
  const int64_t block = plan.position_blocks - 1 - item % plan.position_blocks;
  item /= plan.position_blocks;
  const int64_t chunk = item % plan.head_chunks;
  item /= plan.head_chunks;
  const int64_t kv_head = item % a.kv_heads;
  const int64_t sequence = item / a.kv_heads;

  const int64_t group = a.heads / a.kv_heads;
  const int64_t first_head = chunk * plan.heads_per_item;
  const int64_t first_query = block * plan.positions_per_item;
  const int64_t head = kv_head * group + first_head;
  const int64_t row = sequence * a.query_tokens + first_query;
  const int64_t kv_offset = sequence * a.kv_sequence_stride + kv_head * a.kv_head_stride;
  AttentionRows rows{};
  rows.q = a.q + row * a.q_stride + head * a.head_dim;
  rows.out = a.out + row * a.out_stride + head * a.head_dim;
  if (a.log_sum_exp != nullptr) rows.log_sum_exp = a.log_sum_exp + row * a.heads + head;
  if (a.kv.is_none()) {
    rows.k = static_cast<const float*>(a.k) + kv_offset;
    rows.v = static_cast<const float*>(a.v) + kv_offset;
  }
  rows.codes_offset = kv_offset;
  rows.grids_offset = (sequence * a.kv_heads + kv_head) * a.grid_head_stride;
  rows.heads = smaller(plan.heads_per_item, group - first_head);
  rows.positions = smaller(plan.positions_per_item, a.query_tokens - first_query);
  rows.count = rows.heads * rows.positions;
  rows.first_position = a.query_offset + first_query;
  return rows;
}

// Keys [first_key, last_key) that a query at `position` sees.
PARE_INLINE int64_t first_key(const AttentionArgs& a, int64_t position) {
  return a.window > 0 ? larger(0, position - a.window + 1) : 0;
}
PARE_INLINE int64_t last_key(const AttentionArgs& a, int64_t position) {
  return a.causal ? smaller(a.key_tokens, position + 1) : a.key_tokens;
}

// Scratch of one item, inside the caller's buffer.
struct AttentionScratch {
  float* q;   // [tiles][head_dim][kTileRows], scaled
  float* o;   // [rows][padded_head_dim]
  float* kt;  // [head_dim][kKeys]
  float* v;   // [kKeys][padded_head_dim], only for codes and when head_dim is no multiple of kLanes
  float* k;   // [kKeys][head_dim], only for codes
  float* l;   // [rows][kLanes]: sums, lane by lane
  float* m;   // [rows]: maxima
};

// acc[r][c] += a[r * kRowStep + t * kDepthStep] * b[t * b_stride + c * kLanes ...] for t in [0, depth)
template <int64_t kRows, int64_t kVecs, int64_t kRowStep, int64_t kDepthStep>
PARE_INLINE void multiply_tile(Vec (&acc)[size_t(kRows)][size_t(kVecs)], const float* a, const float* b,
                               int64_t b_stride, int64_t depth) {
  for (int64_t t = 0; t < depth; ++t) {
    Vec column[size_t(kVecs)];
#pragma GCC unroll 8
    for (int64_t c = 0; c < kVecs; ++c) column[c] = load(b + c * kLanes);
#pragma GCC unroll 8
    for (int64_t r = 0; r < kRows; ++r) {
      const Vec x = broadcast(a[r * kRowStep]);
#pragma GCC unroll 8
      for (int64_t c = 0; c < kVecs; ++c) acc[r][c] = multiply_add(x, column[c], acc[r][c]);
    }
    a += kDepthStep;
    b += b_stride;
  }
}

// o[r, columns] = correction[r] * o[r, columns] + sum_t p[r, t] v[t, columns]
template <int64_t kRows, int64_t kVecs>
PARE_INLINE void accumulate_values(const float* p, const float* v, int64_t v_stride, int64_t depth,
                                   const float* correction, float* o, int64_t o_stride) {
  Vec acc[size_t(kRows)][size_t(kVecs)];
#pragma GCC unroll 8
  for (int64_t r = 0; r < kRows; ++r) {
    const Vec factor = broadcast(correction[r]);
#pragma GCC unroll 8
    for (int64_t c = 0; c < kVecs; ++c) acc[r][c] = factor * load(o + r * o_stride + c * kLanes);
  }
  multiply_tile<kRows, kVecs, kKeys, 1>(acc, p, v, v_stride, depth);
#pragma GCC unroll 8
  for (int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int64_t c = 0; c < kVecs; ++c) store(o + r * o_stride + c * kLanes, acc[r][c]);
  }
}

// A block of keys as the tile sees it.
struct AttentionBlock {
  const float* kt;
  const float* v;
  int64_t v_stride;
  int64_t head_dim, padded_head_dim;
  float softcap;  // 0: none
};

// P and the running maximum and sum of kRows rows. low, high: the keys that a row sees, inside the block.
template <int64_t kRows>
PARE_INLINE void online_softmax(float* p, const int64_t* low, const int64_t* high, float* l, float* m,
                                float* correction) {
  float shift[size_t(kRows)];
  alignas(64) float difference[16] = {};
#pragma GCC unroll 8
  for (int64_t r = 0; r < kRows; ++r) {
    float* row = p + r * kKeys;
    for (int64_t j = 0; j < low[r]; ++j) row[j] = -INFINITY;
    for (int64_t j = high[r]; j < kKeys; ++j) row[j] = -INFINITY;
    Vec largest = load(row);
    for (int64_t j = kLanes; j < kKeys; j += kLanes) largest = max_or_second(load(row + j), largest);
    const float block_maximum = reduce_max(largest);
    const float maximum = block_maximum > m[r] ? block_maximum : m[r];
    // A row without a visible key yet: its terms are 2^-infinity = 0 whatever the shift.
    shift[r] = maximum == -INFINITY ? 0.0f : maximum;
    difference[r] = maximum == -INFINITY ? 0.0f : m[r] - maximum;
    m[r] = maximum;
  }
  for (int64_t r = 0; r < kRows; r += kLanes) store(correction + r, exp2_nonpositive(load(difference + r)));
  for (int64_t r = 0; r < kRows; ++r) {
    float* row = p + r * kKeys;
    const Vec s = broadcast(shift[r]);
    Vec sum = load(l + r * kLanes) * broadcast(correction[r]);
#pragma GCC unroll 4
    for (int64_t j = 0; j < kKeys; j += kLanes) {
      const Vec term = exp2_nonpositive(load(row + j) - s);
      store(row + j, term);
      sum = sum + term;
    }
    store(l + r * kLanes, sum);
  }
}

// One tile of rows against one block of keys.
template <int64_t kRows>
static void attend_tile(const AttentionBlock& b, const float* q, const int64_t* low, const int64_t* high,
                        float* o, float* l, float* m) {
  alignas(64) float p[size_t(kRows * kKeys)];
  for (int64_t c = 0; c < kKeys; c += kTileVecs * kLanes) {
    Vec acc[size_t(kRows)][size_t(kTileVecs)];
#pragma GCC unroll 8
    for (int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int64_t j = 0; j < kTileVecs; ++j) acc[r][j] = zero();
    }
    multiply_tile<kRows, kTileVecs, 1, kTileRows>(acc, q, b.kt + c, kKeys, b.head_dim);
#pragma GCC unroll 8
    for (int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int64_t j = 0; j < kTileVecs; ++j) store(p + r * kKeys + c + j * kLanes, acc[r][j]);
    }
  }
  if (b.softcap > 0.0f) {
    const Vec inverse = broadcast(1.0f / b.softcap);
    const Vec cap = broadcast(b.softcap * kLog2E);
    for (int64_t j = 0; j < kRows * kKeys; j += kLanes) store(p + j, cap * tanh(load(p + j) * inverse));
  }
  alignas(64) float correction[16];
  online_softmax<kRows>(p, low, high, l, m, correction);

  // Keys that no row of the tile sees have P = 0; leaving them out changes nothing.
  int64_t begin = low[0];
  int64_t end = high[0];
  for (int64_t r = 1; r < kRows; ++r) {
    begin = smaller(begin, low[r]);
    end = larger(end, high[r]);
  }
  const float* v = b.v + begin * b.v_stride;
  const int64_t depth = larger(0, end - begin);
  const int64_t vecs = (b.head_dim + kLanes - 1) / kLanes;
  int64_t c = 0;
  for (; c + kTileVecs <= vecs; c += kTileVecs) {
    accumulate_values<kRows, kTileVecs>(p + begin, v + c * kLanes, b.v_stride, depth, correction,
                                        o + c * kLanes, b.padded_head_dim);
  }
  for (; c < vecs; ++c) {
    accumulate_values<kRows, 1>(p + begin, v + c * kLanes, b.v_stride, depth, correction, o + c * kLanes,
                                b.padded_head_dim);
  }
}

// What the next block reads, fetched while this one is transposed; null: not worth it.
struct AttentionAhead {
  const float* k;
  const float* v;
};

// kt[d * kKeys + j] = k[j * stride + d], zero for count <= j < kKeys
PARE_INLINE void transpose_keys(const float* k, int64_t stride, int64_t count, int64_t head_dim,
                                AttentionAhead ahead, float* kt) {
  for (int64_t j = 0; j < kKeys; j += kLanes) {
    for (int64_t d = 0; d < head_dim; d += kLanes) {
      if (ahead.k != nullptr && d % 16 == 0) {
        for (int64_t i = j; i < j + kLanes; ++i) {
          __builtin_prefetch(ahead.k + i * stride + d);
          __builtin_prefetch(ahead.v + i * stride + d);
        }
      }
      if (j + kLanes <= count && d + kLanes <= head_dim) {
        transpose_square(k + j * stride + d, stride, kt + d * kKeys + j, kKeys);
        continue;
      }
      const int64_t columns = smaller(kLanes, head_dim - d);
      for (int64_t e = 0; e < columns; ++e) {
        for (int64_t i = 0; i < kLanes; ++i) {
          kt[(d + e) * kKeys + j + i] = j + i < count ? k[(j + i) * stride + d + e] : 0.0f;
        }
      }
    }
  }
}

PARE_INLINE AttentionScratch divide_scratch(float* buffer, const AttentionArgs& a, const AttentionPlan& plan,
                                            int64_t rows) {
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  const auto take = [&](int64_t floats) {
    float* part = buffer;
    buffer += (floats + 15) / 16 * 16;
    return part;
  };
  AttentionScratch s{};
  s.q = take(tiles * kTileRows * a.head_dim);
  s.o = take(rows * plan.padded_head_dim);
  s.kt = take(kKeys * a.head_dim);
  s.l = take(rows * kLanes);
  s.m = take(rows);
  s.v = take(a.kv.is_none() && a.head_dim % kLanes == 0 ? 0 : kKeys * plan.padded_head_dim);
  s.k = take(a.kv.is_none() ? 0 : kKeys * a.head_dim);
  return s;
}

PARE_INLINE void prepare_rows(const AttentionArgs& a, const AttentionPlan& plan, const AttentionRows& rows,
                              const AttentionScratch& s) {
  const float scale = a.softcap > 0.0f ? a.scale : a.scale * kLog2E;
  for (int64_t r = 0; r < rows.count; ++r) {
    const float* q = rows.q + rows.q_offset(r, a.q_stride, a.head_dim);
    float* packed = s.q + (r / kTileRows) * kTileRows * a.head_dim + r % kTileRows;
    for (int64_t d = 0; d < a.head_dim; ++d) packed[d * kTileRows] = q[d] * scale;
    s.m[r] = -INFINITY;
  }
  for (int64_t i = 0; i < rows.count * plan.padded_head_dim; ++i) s.o[i] = 0.0f;
  for (int64_t i = 0; i < rows.count * kLanes; ++i) s.l[i] = 0.0f;
}

// All tiles of the item against the block of keys that begins at j0.
PARE_INLINE void attend_block(const AttentionArgs& a, const AttentionPlan& plan, const AttentionRows& rows,
                              const AttentionScratch& s, const AttentionBlock& block, int64_t j0) {
  for (int64_t r0 = 0; r0 < rows.count; r0 += kTileRows) {
    const int64_t count = smaller(kTileRows, rows.count - r0);
    int64_t low[kTileRows];
    int64_t high[kTileRows];
    bool any_visible = false;
    for (int64_t r = 0; r < count; ++r) {
      const int64_t position = rows.position(r0 + r);
      high[r] = larger(0, smaller(kKeys, last_key(a, position) - j0));
      low[r] = smaller(high[r], larger(0, first_key(a, position) - j0));
      any_visible |= low[r] < high[r];
    }
    if (!any_visible) continue;
    const float* q = s.q + r0 * a.head_dim;
    float* o = s.o + r0 * plan.padded_head_dim;
    float* l = s.l + r0 * kLanes;
    float* m = s.m + r0;
    switch (count) {
      case 1:
        attend_tile<1>(block, q, low, high, o, l, m);
        break;
      case 2:
        attend_tile<2>(block, q, low, high, o, l, m);
        break;
      case 3:
        attend_tile<3>(block, q, low, high, o, l, m);
        break;
      case 4:
        attend_tile<4>(block, q, low, high, o, l, m);
        break;
      case 5:
        attend_tile<5>(block, q, low, high, o, l, m);
        break;
      default:
        attend_tile<kTileRows>(block, q, low, high, o, l, m);
        break;
    }
  }
}

// Float of a scale: a normal f16 above 0, or the NaN of a vector that was not finite.
PARE_INLINE float kv_scale(uint16_t half) {
  if (half >= 0x7c00) return __builtin_nanf("");
  return __builtin_bit_cast(float, (uint32_t(half) << 13) + (uint32_t(127 - 15) << 23));
}

// Keys or values [j0, j0 + count) of the item as floats [count, stride], zero behind head_dim; as kv_decode.
static void decode_block(const AttentionArgs& a, const AttentionRows& rows, bool is_key, int64_t j0,
                         int64_t count, int64_t stride, float* out) {
  const uint8_t* codes =
      static_cast<const uint8_t*>(is_key ? a.k : a.v) + rows.codes_offset + j0 * a.kv_position_stride;
  const uint16_t* scales = (is_key ? a.k_scales : a.v_scales) + rows.grids_offset + j0;
  const uint8_t* zeros = is_key ? a.k_zeros : a.v_zeros;
  const int64_t half = (a.head_dim + 1) / 2;
  for (int64_t j = 0; j < count; ++j, codes += a.kv_position_stride, out += stride) {
    const float scale = kv_scale(scales[j]);
    if (zeros == nullptr) {
      for (int64_t d = 0; d < a.head_dim; ++d) out[d] = scale * (float(codes[d]) - 128.0f);
    } else {
      const float zero = float(zeros[rows.grids_offset + j0 + j]);
      for (int64_t d = 0; d < half; ++d) out[d] = scale * (float(codes[d] & 15) - zero);
      for (int64_t d = half; d < a.head_dim; ++d) out[d] = scale * (float(codes[d - half] >> 4) - zero);
    }
    for (int64_t d = a.head_dim; d < stride; ++d) out[d] = 0.0f;
  }
}

// From the largest score, in base 2, and the sum of 2^(score - largest); -infinity where no key is visible.
PARE_INLINE void store_log_sum_exp(const AttentionArgs& a, const AttentionRows& rows, int64_t row,
                                   float maximum, float sum) {
  if (rows.log_sum_exp == nullptr) return;
  const double value = double(maximum) * 0.69314718055994531 + ::log(double(sum));
  rows.log_sum_exp[row / rows.heads * a.heads + row % rows.heads] = float(value);
}

static void attend_tiled(const AttentionArgs& a, const AttentionPlan& plan, const AttentionRows& rows) {
  const AttentionScratch s = divide_scratch(attention_scratch(), a, plan, rows.count);
  prepare_rows(a, plan, rows, s);

  const int64_t first = first_key(a, rows.first_position) / kKeys * kKeys;
  const int64_t last = last_key(a, rows.first_position + rows.positions - 1);
  const bool is_coded = !a.kv.is_none();
  const bool copies_values = is_coded || a.head_dim % kLanes != 0;
  for (int64_t j0 = first; j0 < last; j0 += kKeys) {
    const int64_t count = smaller(kKeys, last - j0);
    const float* v = is_coded ? s.v : rows.v + j0 * a.kv_position_stride;
    // With few rows the item is bound by memory; with many the prefetches would only cost time.
    const int64_t next = (j0 + kKeys) * a.kv_position_stride;
    const bool fetches_ahead = !is_coded && rows.count <= 2 * kTileRows && j0 + 2 * kKeys <= last;
    const AttentionAhead ahead =
        fetches_ahead ? AttentionAhead{rows.k + next, rows.v + next} : AttentionAhead{};
    if (is_coded) {
      decode_block(a, rows, true, j0, count, a.head_dim, s.k);
      decode_block(a, rows, false, j0, count, plan.padded_head_dim, s.v);
      transpose_keys(s.k, a.head_dim, count, a.head_dim, ahead, s.kt);
    } else {
      transpose_keys(rows.k + j0 * a.kv_position_stride, a.kv_position_stride, count, a.head_dim, ahead,
                     s.kt);
    }
    if (copies_values && !is_coded) {
      for (int64_t j = 0; j < count; ++j) {
        float* row = s.v + j * plan.padded_head_dim;
        for (int64_t d = 0; d < a.head_dim; ++d) row[d] = v[j * a.kv_position_stride + d];
        for (int64_t d = a.head_dim; d < plan.padded_head_dim; ++d) row[d] = 0.0f;
      }
    }
    const AttentionBlock block{
        s.kt,       copies_values ? s.v : v, copies_values ? plan.padded_head_dim : a.kv_position_stride,
        a.head_dim, plan.padded_head_dim,    a.softcap};
    attend_block(a, plan, rows, s, block, j0);
  }

  for (int64_t r = 0; r < rows.count; ++r) {
    const float sum = reduce_add(load(s.l + r * kLanes));
    const Vec total = broadcast(sum);
    store_log_sum_exp(a, rows, r, s.m[r], sum);
    map(s.o + r * plan.padded_head_dim, rows.out + rows.q_offset(r, a.out_stride, a.head_dim), a.head_dim,
        [&](Vec o) { return o / total; });
  }
}

// Heads too large for the scratch: each row by itself, with the output row as accumulator.
static void attend_row(const AttentionArgs& a, const AttentionRows& rows, int64_t row) {
  const float* q = rows.q + rows.q_offset(row, a.q_stride, a.head_dim);
  float* out = rows.out + rows.q_offset(row, a.out_stride, a.head_dim);
  const float scale = a.softcap > 0.0f ? a.scale : a.scale * kLog2E;
  float maximum = -INFINITY;
  alignas(64) float sum[kLanes] = {};
  map(q, out, a.head_dim, [](Vec) { return zero(); });
  const int64_t begin = first_key(a, rows.position(row));
  const int64_t end = last_key(a, rows.position(row));
  for (int64_t j0 = begin / kKeys * kKeys; j0 < end; j0 += kKeys) {
    alignas(64) float p[kKeys] = {};
    const int64_t low = larger(0, begin - j0);
    const int64_t high = smaller(kKeys, end - j0);
    for (int64_t j = low; j < high; ++j) {
      const float* k = rows.k + (j0 + j) * a.kv_position_stride;
      Vec dot = zero();
      int64_t d = 0;
      for (; d + kLanes <= a.head_dim; d += kLanes) dot = multiply_add(load(q + d), load(k + d), dot);
      if (d < a.head_dim) {
        dot = multiply_add(load_partial(q + d, a.head_dim - d), load_partial(k + d, a.head_dim - d), dot);
      }
      p[j] = reduce_add(dot) * scale;
    }
    if (a.softcap > 0.0f) {
      const Vec cap = broadcast(a.softcap);
      map(p, p, kKeys, [&](Vec score) { return cap * broadcast(kLog2E) * tanh(score / cap); });
    }
    alignas(64) float correction[16];
    online_softmax<1>(p, &low, &high, sum, &maximum, correction);
    map(out, out, a.head_dim, [&](Vec o) { return o * broadcast(correction[0]); });
    for (int64_t j = low; j < high; ++j) {
      const Vec weight = broadcast(p[j]);
      map(rows.v + (j0 + j) * a.kv_position_stride, out, out, a.head_dim,
          [&](Vec v, Vec o) { return multiply_add(weight, v, o); });
    }
  }
  const Vec total = broadcast(reduce_add(load(sum)));
  store_log_sum_exp(a, rows, row, maximum, reduce_add(load(sum)));
  map(out, out, a.head_dim, [&](Vec o) { return o / total; });
}

static void attention(const AttentionArgs& a, const AttentionPlan& plan, int64_t item) {
  const AttentionRows rows = attention_rows(a, plan, item);
  if (plan.is_tiled) return attend_tiled(a, plan, rows);
  for (int64_t r = 0; r < rows.count; ++r) attend_row(a, rows, r);
}

}  // namespace pare::cpu::PARE_ISA_NAMESPACE
