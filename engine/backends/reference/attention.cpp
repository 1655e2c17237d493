#include <algorithm>
#include <array>
#include <cmath>

#include "engine/backends/reference/backend_class.h"
#include "engine/core/parallel.h"

namespace pare::reference {
namespace {

// Component d of key or value j.
double component(const AttentionArgs& a, bool is_key, int64_t offset, int64_t grid, int64_t j, int64_t d) {
  const void* data = is_key ? a.k : a.v;
  const int64_t at = offset + j * a.kv_position_stride;
  if (a.kv.is_none()) return load(data, a.kv_dtype, at + d);
  const uint8_t* zeros = is_key ? a.k_zeros : a.v_zeros;
  return double(kv_value(a.kv, static_cast<const uint8_t*>(data) + at,
                         (is_key ? a.k_scales : a.v_scales)[grid + j],
                         zeros != nullptr ? zeros[grid + j] : uint8_t{0}, a.head_dim, d));
}

// One query of one head: which keys it sees, and its score with each.
struct Query {
  const AttentionArgs& a;
  const float* q;        // [head_dim]
  int64_t keys_offset;   // of element (sequence, kv head, 0, 0)
  int64_t grids_offset;  // of its scale, for codes
  int64_t first_key, end_key;

  // scale * <q, k_j>, soft-capped
  double score(int64_t j) const {
    double sum = 0.0;
    for (int64_t d = 0; d < a.head_dim; ++d)
      sum += double(q[d]) * component(a, true, keys_offset, grids_offset, j, d);
    sum *= double(a.scale);
    return a.softcap > 0.0f ? double(a.softcap) * std::tanh(sum / double(a.softcap)) : sum;
  }
};

Query query_at(const AttentionArgs& a, int64_t s, int64_t i, int64_t h) {
  const int64_t position = a.query_offset + i;
  const int64_t kv_head = h / (a.heads / a.kv_heads);
  return {.a = a,
          .q = a.q + (s * a.query_tokens + i) * a.q_stride + h * a.head_dim,
          .keys_offset = s * a.kv_sequence_stride + kv_head * a.kv_head_stride,
          .grids_offset = (s * a.kv_heads + kv_head) * a.grid_head_stride,
          .first_key = a.window > 0 ? std::max<int64_t>(0, position - a.window + 1) : 0,
          .end_key = a.causal ? std::min(a.key_tokens, position + 1) : a.key_tokens};
}

// out[:] = sum_j softmax_j(score_j) v_j. Scores are computed again instead of being kept: no operation
// allocates. log_sum_exp may be null.
void attend(const Query& query, float* out, float* log_sum_exp) {
  const AttentionArgs& a = query.a;
  double largest = -INFINITY;
  for (int64_t j = query.first_key; j < query.end_key; ++j) largest = std::max(largest, query.score(j));

  constexpr int64_t kWidth = 256;  // components summed per pass over the keys
  for (int64_t begin = 0; begin < a.head_dim; begin += kWidth) {
    const int64_t end = std::min(a.head_dim, begin + kWidth);
    std::array<double, size_t{kWidth}> sums{};
    double total = 0.0;
    for (int64_t j = query.first_key; j < query.end_key; ++j) {
      const double weight = std::exp(query.score(j) - largest);
      total += weight;
      for (int64_t d = begin; d < end; ++d)
        sums[size_t(d - begin)] += weight * component(a, false, query.keys_offset, query.grids_offset, j, d);
    }
    for (int64_t d = begin; d < end; ++d) out[d] = float(sums[size_t(d - begin)] / total);
    if (log_sum_exp != nullptr) *log_sum_exp = float(largest + std::log(total));
  }
}

}  // namespace

void ReferenceBackend::attention(const AttentionArgs& a) {
  parallel_for(a.sequences * a.query_tokens, [&](int64_t row) {
    for (int64_t h = 0; h < a.heads; ++h) {
      attend(query_at(a, row / a.query_tokens, row % a.query_tokens, h),
             a.out + row * a.out_stride + h * a.head_dim,
             a.log_sum_exp != nullptr ? a.log_sum_exp + row * a.heads + h : nullptr);
    }
  });
}

}  // namespace pare::reference
