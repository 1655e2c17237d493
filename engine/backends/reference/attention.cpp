#include <algorithm>
#include <array>
#include <cmath>

#include "engine/backends/reference/backend_class.h"
#include "engine/core/parallel.h"

namespace pare::reference {
namespace {

// One query of one head: which keys it sees, and its score with each.
struct Query {
  const AttentionArgs& a;
  const float* q;       // [head_dim]
  int64_t keys_offset;  // of element (sequence, kv head, 0, 0)
  int64_t first_key, end_key;

  // scale * <q, k_j>, soft-capped
  double score(int64_t j) const {
    const int64_t key = keys_offset + j * a.kv_position_stride;
    double sum = 0.0;
    for (int64_t d = 0; d < a.head_dim; ++d) sum += double(q[d]) * load(a.k, a.kv_dtype, key + d);
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
          .first_key = a.window > 0 ? std::max<int64_t>(0, position - a.window + 1) : 0,
          .end_key = a.causal ? std::min(a.key_tokens, position + 1) : a.key_tokens};
}

// out[:] = sum_j softmax_j(score_j) v_j. Scores are computed again instead of being kept: no operation
// allocates.
void attend(const Query& query, float* out) {
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
      const int64_t value = query.keys_offset + j * a.kv_position_stride;
      total += weight;
      for (int64_t d = begin; d < end; ++d)
        sums[size_t(d - begin)] += weight * load(a.v, a.kv_dtype, value + d);
    }
    for (int64_t d = begin; d < end; ++d) out[d] = float(sums[size_t(d - begin)] / total);
  }
}

}  // namespace

void ReferenceBackend::attention(const AttentionArgs& a) {
  parallel_for(a.sequences * a.query_tokens, [&](int64_t row) {
    for (int64_t h = 0; h < a.heads; ++h) {
      attend(query_at(a, row / a.query_tokens, row % a.query_tokens, h),
             a.out + row * a.out_stride + h * a.head_dim);
    }
  });
}

}  // namespace pare::reference
