#include <algorithm>
#include <array>
#include <cmath>

#include "engine/backends/cpu/training_class.h"
#include "engine/core/parallel.h"

namespace pare::cpu {
namespace {

constexpr int64_t kWidth = 256;  // components summed per pass over the pairs
using Sums = std::array<double, size_t{kWidth}>;

double dot(const float* x, const float* y, int64_t count) {
  double sum = 0.0;
  for (int64_t d = 0; d < count; ++d) sum += double(x[d]) * double(y[d]);
  return sum;
}

// One head of one sequence, and the key/value head that it reads.
struct Head {
  const AttentionBackwardArgs& a;
  int64_t sequence, head;

  int64_t row(int64_t position) const { return sequence * a.tokens + position; }
  int64_t kv_column() const { return head / (a.heads / a.kv_heads) * a.head_dim; }
  const float* q(int64_t i) const { return a.q + row(i) * a.q_stride + head * a.head_dim; }
  const float* k(int64_t j) const { return a.k + row(j) * a.kv_stride + kv_column(); }
  const float* v(int64_t j) const { return a.v + row(j) * a.kv_stride + kv_column(); }
  const float* out(int64_t i) const { return a.out + row(i) * a.out_stride + head * a.head_dim; }
  const float* dout(int64_t i) const { return a.dout + row(i) * a.dout_stride + head * a.head_dim; }

  // p and ds of query i and key j. Computed again for each use instead of being kept: no operation allocates.
  struct Pair {
    double p, ds;
  };
  Pair pair(int64_t i, int64_t j) const {
    double score = dot(q(i), k(j), a.head_dim) * double(a.scale);
    double slope = 1.0;
    if (a.softcap > 0.0f) {
      const double t = std::tanh(score / double(a.softcap));
      score = double(a.softcap) * t;
      slope = 1.0 - t * t;
    }
    const double p = std::exp(score - double(a.log_sum_exp[row(i) * a.heads + head]));
    const double dp = dot(dout(i), v(j), a.head_dim);
    return {p, p * (dp - dot(dout(i), out(i), a.head_dim)) * slope};
  }
};

void query_gradient(const Head& head, int64_t i, float* dq) {
  const AttentionBackwardArgs& a = head.a;
  const int64_t first = a.window > 0 ? std::max<int64_t>(0, i - a.window + 1) : 0;
  const int64_t last = a.causal ? i + 1 : a.tokens;
  for (int64_t begin = 0; begin < a.head_dim; begin += kWidth) {
    const int64_t end = std::min(a.head_dim, begin + kWidth);
    Sums sums{};
    for (int64_t j = first; j < last; ++j) {
      const double ds = head.pair(i, j).ds;
      for (int64_t d = begin; d < end; ++d) sums[size_t(d - begin)] += ds * double(head.k(j)[d]);
    }
    for (int64_t d = begin; d < end; ++d) dq[d] = float(double(a.scale) * sums[size_t(d - begin)]);
  }
}

// Of key and value j, from all query heads that read them.
void key_gradients(const AttentionBackwardArgs& a, int64_t sequence, int64_t kv_head, int64_t j, float* dk,
                   float* dv) {
  const int64_t group = a.heads / a.kv_heads;
  const int64_t first = a.causal ? j : 0;
  const int64_t last = a.window > 0 ? std::min(a.tokens, j + a.window) : a.tokens;
  for (int64_t begin = 0; begin < a.head_dim; begin += kWidth) {
    const int64_t end = std::min(a.head_dim, begin + kWidth);
    Sums keys{}, values{};
    for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      const Head head{a, sequence, h};
      for (int64_t i = first; i < last; ++i) {
        const Head::Pair pair = head.pair(i, j);
        for (int64_t d = begin; d < end; ++d) {
          keys[size_t(d - begin)] += pair.ds * double(head.q(i)[d]);
          values[size_t(d - begin)] += pair.p * double(head.dout(i)[d]);
        }
      }
    }
    for (int64_t d = begin; d < end; ++d) {
      dk[d] = float(double(a.scale) * keys[size_t(d - begin)]);
      dv[d] = float(values[size_t(d - begin)]);
    }
  }
}

}  // namespace

void CpuTraining::attention_backward(const AttentionBackwardArgs& a) {
  parallel_for(a.sequences * a.tokens, [&](int64_t row) {
    const int64_t sequence = row / a.tokens, position = row % a.tokens;
    for (int64_t h = 0; h < a.heads; ++h) {
      query_gradient({a, sequence, h}, position, a.dq + row * a.dq_stride + h * a.head_dim);
    }
    for (int64_t h = 0; h < a.kv_heads; ++h) {
      const int64_t offset = row * a.dkv_stride + h * a.head_dim;
      key_gradients(a, sequence, h, position, a.dk + offset, a.dv + offset);
    }
  });
}

}  // namespace pare::cpu
