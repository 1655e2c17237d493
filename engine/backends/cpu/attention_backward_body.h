// engine/backends/cpu/attention_backward_body.h: the gradients of attention, block of keys by block of keys.
//
//   for each block of 64 keys, for each block of rows that see it:
//     P = 2^(S - lse),  S = Q K^T (base 2),  dP = dO V^T,  dS = P (dP - sum(dO O))
//     dV += P^T dO,  dK += dS^T Q,  dQ += dS K
//
// All five products are register tiles of kTileRows x kTileVecs vectors; K and V are transposed once per
// block. Rows are (position, head of the group), so that grouped heads add to the same dK and dV. One call is
// one square of query and key positions of one key/value head; squares that share neither queries nor keys
// may run at the same time. Source: Dao, "FlashAttention-2" (2023), algorithm 2.
#pragma once

#include "engine/backends/cpu/attention_plan.h"
#include "engine/tensor/training_backend.h"

namespace pare::cpu::PARE_ISA_NAMESPACE {

// out[r, c] (+)= sum_t a[r * row_step + t * depth_step] * b[t * b_stride + c]
struct Product {
  const float* a;
  int64_t row_step, depth_step;
  const float* b;
  int64_t b_stride, depth;
  float* out;
  int64_t out_stride;
  bool adds;
};

template <int64_t kRows, int64_t kVecs>
PARE_INLINE void product_tile(const Product& p, int64_t row, int64_t column) {
  const float* a = p.a + row * p.row_step;
  const float* b = p.b + column;
  float* out = p.out + row * p.out_stride + column;
  const int64_t row_step = p.row_step, depth_step = p.depth_step, b_stride = p.b_stride;
  Vec acc[size_t(kRows)][size_t(kVecs)];
#pragma GCC unroll 8
  for (int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int64_t c = 0; c < kVecs; ++c) {
      acc[r][c] = p.adds ? load(out + r * p.out_stride + c * kLanes) : zero();
    }
  }
  for (int64_t t = p.depth; t > 0; --t) {
    Vec line[size_t(kVecs)];
#pragma GCC unroll 8
    for (int64_t c = 0; c < kVecs; ++c) line[c] = load(b + c * kLanes);
#pragma GCC unroll 8
    for (int64_t r = 0; r < kRows; ++r) {
      const Vec x = broadcast(a[r * row_step]);
#pragma GCC unroll 8
      for (int64_t c = 0; c < kVecs; ++c) acc[r][c] = multiply_add(x, line[c], acc[r][c]);
    }
    a += depth_step;
    b += b_stride;
  }
#pragma GCC unroll 8
  for (int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int64_t c = 0; c < kVecs; ++c) store(out + r * p.out_stride + c * kLanes, acc[r][c]);
  }
}

template <int64_t kVecs>
static void product_panel(const Product& p, int64_t rows, int64_t column) {
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) product_tile<kTileRows, kVecs>(p, r, column);
  switch (rows - r) {
    case 1:
      product_tile<1, kVecs>(p, r, column);
      break;
    case 2:
      product_tile<2, kVecs>(p, r, column);
      break;
    case 3:
      product_tile<3, kVecs>(p, r, column);
      break;
    case 4:
      product_tile<4, kVecs>(p, r, column);
      break;
    case 5:
      product_tile<5, kVecs>(p, r, column);
      break;
    default:
      break;
  }
}

static void product(const Product& p, int64_t rows, int64_t vecs) {
  int64_t c = 0;
  for (; c + kTileVecs <= vecs; c += kTileVecs) product_panel<kTileVecs>(p, rows, c * kLanes);
  for (; c + kTileVecs / 2 <= vecs; c += kTileVecs / 2) product_panel<kTileVecs / 2>(p, rows, c * kLanes);
  for (; c < vecs; ++c) product_panel<1>(p, rows, c * kLanes);
}

// One key/value head of one sequence: position 0, first head of the group.
struct BackwardHead {
  const float* q;
  const float* k;
  const float* v;
  const float* out;
  const float* dout;
  const float* log_sum_exp;
  float* dq;
  float* dk;
  float* dv;
  int64_t group;
};

PARE_INLINE BackwardHead backward_head(const AttentionBackwardArgs& a, int64_t sequence_head) {
  const int64_t row = sequence_head / a.kv_heads * a.tokens;
  const int64_t kv_head = sequence_head % a.kv_heads;
  const int64_t group = a.heads / a.kv_heads;
  const int64_t column = kv_head * group * a.head_dim, kv_column = kv_head * a.head_dim;
  return {a.q + row * a.q_stride + column,       a.k + row * a.kv_stride + kv_column,
          a.v + row * a.kv_stride + kv_column,   a.out + row * a.out_stride + column,
          a.dout + row * a.dout_stride + column, a.log_sum_exp + row * a.heads + kv_head * group,
          a.dq + row * a.dq_stride + column,     a.dk + row * a.dkv_stride + kv_column,
          a.dv + row * a.dkv_stride + kv_column, group};
}

// Queries [first, last) that see any of the keys [begin, end).
PARE_INLINE int64_t first_query(const AttentionBackwardArgs& a, int64_t begin) {
  return a.causal ? begin : 0;
}
PARE_INLINE int64_t last_query(const AttentionBackwardArgs& a, int64_t end) {
  return a.window > 0 ? smaller(a.tokens, end - 1 + a.window) : a.tokens;
}
// Keys [first, last) that a query sees.
PARE_INLINE int64_t first_key(const AttentionBackwardArgs& a, int64_t query) {
  return a.window > 0 ? larger(0, query - a.window + 1) : 0;
}
PARE_INLINE int64_t last_key(const AttentionBackwardArgs& a, int64_t query) {
  return a.causal ? query + 1 : a.tokens;
}

PARE_INLINE float dot(const float* x, const float* y, int64_t n) {
  Vec sum = zero();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) sum = multiply_add(load(x + i), load(y + i), sum);
  if (i < n) sum = multiply_add(load_partial(x + i, n - i), load_partial(y + i, n - i), sum);
  return reduce_add(sum);
}

// Scratch of one block of keys and one block of rows.
struct BackwardScratch {
  float* q;      // [rows][padded_head_dim], scaled
  float* dout;   // [rows][padded_head_dim]
  float* dq;     // [rows][padded_head_dim]
  float* p;      // [rows][kKeys]
  float* ds;     // [rows][kKeys]
  float* shift;  // [rows]: log-sum-exp in base 2
  float* delta;  // [rows]: sum(dout out)
  float* kt;     // [head_dim][kKeys]
  float* vt;     // [head_dim][kKeys]
  float* dk;     // [kKeys][padded_head_dim]
  float* dv;     // [kKeys][padded_head_dim]
  float* k;      // [kKeys][padded_head_dim], only when head_dim is no multiple of kLanes
};

PARE_INLINE BackwardScratch divide_scratch(float* buffer, const AttentionBackwardPlan& plan) {
  const auto take = [&](int64_t floats) {
    float* part = buffer;
    buffer += (floats + 15) / 16 * 16;
    return part;
  };
  const int64_t row_floats = plan.rows * plan.padded_head_dim, key_floats = kKeys * plan.padded_head_dim;
  BackwardScratch s{};
  s.q = take(row_floats);
  s.dout = take(row_floats);
  s.dq = take(row_floats);
  s.p = take(plan.rows * kKeys);
  s.ds = take(plan.rows * kKeys);
  s.shift = take(plan.rows);
  s.delta = take(plan.rows);
  s.kt = take(key_floats);
  s.vt = take(key_floats);
  s.dk = take(key_floats);
  s.dv = take(key_floats);
  s.k = take(key_floats);
  return s;
}

// A block of rows: positions [first, last), heads [head, head + heads) of the group; row = position * heads +
// head.
struct BackwardRows {
  int64_t first, last, head, heads;

  int64_t count() const { return (last - first) * heads; }
  int64_t offset(int64_t row, int64_t stride, int64_t head_dim) const {
    return (first + row / heads) * stride + (head + row % heads) * head_dim;
  }
};

PARE_INLINE void copy_padded(const float* x, int64_t n, int64_t padded, float factor, float* out) {
  const Vec scale = broadcast(factor);
  map(x, out, n, [&](Vec v) { return v * scale; });
  for (int64_t i = n; i < padded; ++i) out[i] = 0.0f;
}

static void gather_rows(const AttentionBackwardArgs& a, const BackwardHead& head, const BackwardRows& rows,
                        int64_t padded, float scale, const BackwardScratch& s) {
  for (int64_t r = 0; r < rows.count(); ++r) {
    const float* dout = head.dout + rows.offset(r, a.dout_stride, a.head_dim);
    copy_padded(head.q + rows.offset(r, a.q_stride, a.head_dim), a.head_dim, padded, scale, s.q + r * padded);
    copy_padded(dout, a.head_dim, padded, 1.0f, s.dout + r * padded);
    s.delta[r] = dot(dout, head.out + rows.offset(r, a.out_stride, a.head_dim), a.head_dim);
    s.shift[r] = head.log_sum_exp[rows.offset(r, a.heads, 1)] * kLog2E;
  }
}

// Row r of a block that comes next, towards the second-level cache: rows of other heads lie between its own,
// which the hardware does not see through.
PARE_INLINE void fetch_row(const AttentionBackwardArgs& a, const BackwardHead& head, const BackwardRows& rows,
                           int64_t r) {
  const float* q = head.q + rows.offset(r, a.q_stride, a.head_dim);
  const float* out = head.out + rows.offset(r, a.out_stride, a.head_dim);
  const float* dout = head.dout + rows.offset(r, a.dout_stride, a.head_dim);
  const float* dq = head.dq + rows.offset(r, a.dq_stride, a.head_dim);
  for (int64_t d = 0; d < a.head_dim; d += 16) {
    __builtin_prefetch(q + d, 0, 2);
    __builtin_prefetch(out + d, 0, 2);
    __builtin_prefetch(dout + d, 0, 2);
    __builtin_prefetch(dq + d, 1, 2);
  }
}

// P in the place of scores, dS in that of dP, of one row; zero outside of [low, high).
PARE_INLINE void score_gradient(float softcap, float row_shift, float row_delta, int64_t low, int64_t high,
                                int64_t columns, float* p, float* ds) {
  const Vec shift = broadcast(row_shift), delta = broadcast(row_delta);
  if (softcap > 0.0f) {
    const Vec inverse = broadcast(1.0f / softcap), cap = broadcast(softcap * kLog2E);
    for (int64_t j = 0; j < columns; j += kLanes) {
      const Vec t = tanh(load(p + j) * inverse);
      const Vec probability = exp2_nonpositive(multiply_add(cap, t, zero() - shift));
      store(p + j, probability);
      store(ds + j, probability * (load(ds + j) - delta) * subtract_product(t, t, broadcast(1.0f)));
    }
  } else {
#pragma GCC unroll 4
    for (int64_t j = 0; j < columns; j += kLanes) {
      const Vec probability = exp2_nonpositive(load(p + j) - shift);
      store(p + j, probability);
      store(ds + j, probability * (load(ds + j) - delta));
    }
  }
  for (int64_t j = 0; j < low; ++j) p[j] = ds[j] = 0.0f;
  for (int64_t j = high; j < columns; ++j) p[j] = ds[j] = 0.0f;
}

// One block of rows against the block of keys [j0, j0 + count). next: what comes after it.
static void backward_block(const AttentionBackwardArgs& a, const AttentionBackwardPlan& plan,
                           const BackwardHead& head, const BackwardRows& rows, const BackwardRows& next,
                           int64_t j0, int64_t count, const float* k, int64_t k_stride,
                           const BackwardScratch& s) {
  const int64_t padded = plan.padded_head_dim, n = rows.count();
  gather_rows(a, head, rows, padded, a.softcap > 0.0f ? a.scale : a.scale * kLog2E, s);
  const auto low = [&](int64_t position) { return smaller(count, larger(0, first_key(a, position) - j0)); };
  const auto high = [&](int64_t position) { return larger(0, smaller(count, last_key(a, position) - j0)); };
  const int64_t begin = low(rows.first), end = high(rows.last - 1);
  if (begin >= end) return;

  // Columns behind the last visible key are left out where whole vectors of them are.
  const int64_t score_vecs = (end + kLanes - 1) / kLanes;
  product({s.q, padded, 1, s.kt, kKeys, a.head_dim, s.p, kKeys, false}, n, score_vecs);
  product({s.dout, padded, 1, s.vt, kKeys, a.head_dim, s.ds, kKeys, false}, n, score_vecs);
  for (int64_t r = 0; r < n; ++r) {
    if (r < next.count()) fetch_row(a, head, next, r);
    const int64_t position = rows.first + r / rows.heads;
    score_gradient(a.softcap, s.shift[r], s.delta[r], low(position), high(position), score_vecs * kLanes,
                   s.p + r * kKeys, s.ds + r * kKeys);
  }
  const int64_t vecs = (a.head_dim + kLanes - 1) / kLanes;
  product({s.p + begin, 1, kKeys, s.dout, padded, n, s.dv + begin * padded, padded, true}, end - begin, vecs);
  product({s.ds + begin, 1, kKeys, s.q, padded, n, s.dk + begin * padded, padded, true}, end - begin, vecs);
  product({s.ds + begin, kKeys, 1, k + begin * k_stride, k_stride, end - begin, s.dq, padded, false}, n,
          vecs);
  const Vec scale = broadcast(a.scale);
  for (int64_t r = 0; r < n; ++r) {
    float* dq = head.dq + rows.offset(r, a.dq_stride, a.head_dim);
    map(s.dq + r * padded, dq, dq, a.head_dim, [&](Vec x, Vec sum) { return multiply_add(scale, x, sum); });
  }
}

// The block of keys [j0, j0 + count) with the queries of [first, last) that see it.
static void backward_keys(const AttentionBackwardArgs& a, const AttentionBackwardPlan& plan,
                          const BackwardHead& head, int64_t first, int64_t last, int64_t j0, int64_t count,
                          const BackwardScratch& s) {
  const int64_t padded = plan.padded_head_dim;
  const float* k = head.k + j0 * a.kv_stride;
  int64_t k_stride = a.kv_stride;
  const int64_t first_heads = smaller(plan.heads_per_block, head.group);
  const BackwardRows first_rows{first, smaller(last, first + plan.rows / first_heads), 0, first_heads};
  for (int64_t r = 0; r < first_rows.count(); ++r) fetch_row(a, head, first_rows, r);
  transpose_keys(k, a.kv_stride, count, a.head_dim, {}, s.kt);
  transpose_keys(head.v + j0 * a.kv_stride, a.kv_stride, count, a.head_dim, {}, s.vt);
  if (a.head_dim % kLanes != 0) {
    for (int64_t j = 0; j < count; ++j)
      copy_padded(k + j * a.kv_stride, a.head_dim, padded, 1.0f, s.k + j * padded);
    k = s.k;
    k_stride = padded;
  }
  for (int64_t i = 0; i < kKeys * padded; ++i) s.dk[i] = s.dv[i] = 0.0f;

  for (int64_t head_0 = 0; head_0 < head.group; head_0 += plan.heads_per_block) {
    const int64_t heads = smaller(plan.heads_per_block, head.group - head_0);
    const int64_t positions = plan.rows / heads;
    for (int64_t position = first; position < last; position += positions) {
      const BackwardRows rows{position, smaller(last, position + positions), head_0, heads};
      const int64_t after = position + positions;
      const BackwardRows next{after, larger(after, smaller(last, after + positions)), head_0, heads};
      backward_block(a, plan, head, rows, next, j0, count, k, k_stride, s);
    }
  }
  // dK was summed over queries times scale (and log2(e) with it).
  const Vec factor = broadcast(a.softcap > 0.0f ? 1.0f : 1.0f / kLog2E);
  for (int64_t j = 0; j < count; ++j) {
    float* dk = head.dk + (j0 + j) * a.dkv_stride;
    float* dv = head.dv + (j0 + j) * a.dkv_stride;
    map(s.dk + j * padded, dk, dk, a.head_dim, [&](Vec x, Vec sum) { return multiply_add(factor, x, sum); });
    map(s.dv + j * padded, dv, dv, a.head_dim, [&](Vec x, Vec sum) { return x + sum; });
  }
}

// Heads too large for the scratch: pair by pair. p and ds of query row `offset` and key j.
static void backward_pair(const AttentionBackwardArgs& a, const BackwardHead& head, int64_t i, int64_t h,
                          int64_t j, float delta) {
  const float* q = head.q + i * a.q_stride + h * a.head_dim;
  const float* dout = head.dout + i * a.dout_stride + h * a.head_dim;
  const float* k = head.k + j * a.kv_stride;
  float* dq = head.dq + i * a.dq_stride + h * a.head_dim;
  float* dk = head.dk + j * a.dkv_stride;
  float* dv = head.dv + j * a.dkv_stride;
  const float log2 = a.softcap > 0.0f ? 1.0f : kLog2E;
  alignas(64) float p[kLanes] = {};
  alignas(64) float ds[kLanes] = {};
  p[0] = dot(q, k, a.head_dim) * a.scale * log2;
  ds[0] = dot(dout, head.v + j * a.kv_stride, a.head_dim);
  score_gradient(a.softcap, head.log_sum_exp[i * a.heads + h] * kLog2E, delta, 0, 1, kLanes, p, ds);
  const Vec probability = broadcast(p[0]), gradient = broadcast(ds[0] * a.scale);
  const auto add = [&](Vec factor, const float* x, float* sum) {
    map(x, sum, sum, a.head_dim, [&](Vec u, Vec v) { return multiply_add(factor, u, v); });
  };
  add(probability, dout, dv);
  add(gradient, q, dk);
  add(gradient, k, dq);
}

static void backward_untiled(const AttentionBackwardArgs& a, const BackwardHead& head, int64_t first_position,
                             int64_t last_position, int64_t key_begin, int64_t key_end) {
  for (int64_t i = first_position; i < last_position; ++i) {
    const int64_t begin = larger(key_begin, first_key(a, i)), end = smaller(key_end, last_key(a, i));
    for (int64_t h = 0; h < head.group; ++h) {
      const float delta = dot(head.dout + i * a.dout_stride + h * a.head_dim,
                              head.out + i * a.out_stride + h * a.head_dim, a.head_dim);
      for (int64_t j = begin; j < end; ++j) backward_pair(a, head, i, h, j, delta);
    }
  }
}

PARE_INLINE void clear_rows(float* x, int64_t stride, int64_t begin, int64_t end, int64_t columns) {
  for (int64_t i = begin; i < end; ++i)
    map(x + i * stride, x + i * stride, columns, [](Vec) { return zero(); });
}

// Adds what the queries of one chunk and the keys of another give each other; the square of a chunk with
// itself comes first, and clears.
static void attention_backward(const AttentionBackwardArgs& a, const AttentionBackwardPlan& plan,
                               int64_t sequence_head, int64_t query_chunk, int64_t key_chunk) {
  const BackwardHead head = backward_head(a, sequence_head);
  const int64_t query_begin = query_chunk * plan.chunk_tokens, key_begin = key_chunk * plan.chunk_tokens;
  const int64_t query_end = smaller(a.tokens, query_begin + plan.chunk_tokens);
  const int64_t key_end = smaller(a.tokens, key_begin + plan.chunk_tokens);
  if (query_chunk == key_chunk) {
    clear_rows(head.dq, a.dq_stride, query_begin, query_end, head.group * a.head_dim);
    clear_rows(head.dk, a.dkv_stride, key_begin, key_end, a.head_dim);
    clear_rows(head.dv, a.dkv_stride, key_begin, key_end, a.head_dim);
  }
  if (!plan.is_tiled) return backward_untiled(a, head, query_begin, query_end, key_begin, key_end);
  const BackwardScratch s = divide_scratch(attention_scratch(), plan);
  for (int64_t j0 = key_begin; j0 < key_end; j0 += kKeys) {
    const int64_t count = smaller(kKeys, key_end - j0);
    const int64_t first = larger(query_begin, first_query(a, j0));
    const int64_t last = smaller(query_end, last_query(a, j0 + count));
    if (first < last) backward_keys(a, plan, head, first, last, j0, count, s);
  }
}

}  // namespace pare::cpu::PARE_ISA_NAMESPACE
