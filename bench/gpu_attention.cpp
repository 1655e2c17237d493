// bench/gpu_attention.cpp: attention of prompts and of decode steps on a GPU.
#include <fmt/format.h>

#include <cmath>

#include "bench/cases.h"
#include "bench/gpu_support.h"
#include "engine/tensor/ops.h"
#include "engine/tensor/transfer.h"

namespace pare::bench {
namespace {

constexpr double kBound = 2e-2;  // of the largest output

struct Attention {
  ops::AttentionShape shape;
  std::vector<Tensor> keys, values;  // caches, or rows
  Tensor q, out;
  bool cached = false;

  void run(int turn) {
    const size_t i = size_t(turn) % keys.size();
    if (cached) {
      ops::attention_cached(q, keys[i], values[i], shape, out);
    } else {
      ops::attention(q, keys[i], values[i], shape, out);
    }
  }
  // The last query of the last head, in double.
  double error() {
    run(0);
    const Tensor got = require(moved(out, Device::cpu())), host_q = require(moved(q, Device::cpu()));
    const Tensor k = require(converted(require(moved(keys[0], Device::cpu())), DType::f32));
    const Tensor v = require(converted(require(moved(values[0], Device::cpu())), DType::f32));
    const int64_t d = shape.head_dim, row = got.size(0) - 1, head = shape.heads - 1,
                  kv_head = shape.kv_heads - 1;
    const auto at = [&](const Tensor& t, int64_t position) {
      if (!cached)
        return t.data<float>() + ((shape.sequences - 1) * shape.key_tokens + position) * t.size(1) +
               kv_head * d;
      const int64_t capacity = t.size(2);
      return t.data<float>() + (((shape.sequences - 1) * shape.kv_heads + kv_head) * capacity + position) * d;
    };
    std::vector<double> scores(static_cast<size_t>(shape.key_tokens)), want(static_cast<size_t>(d), 0.0);
    double largest = -1e300, sum = 0.0;
    for (int64_t j = 0; j < shape.key_tokens; ++j) {
      double score = 0.0;
      for (int64_t c = 0; c < d; ++c)
        score += double(host_q.data<float>()[row * host_q.size(1) + head * d + c]) * double(at(k, j)[c]);
      scores[size_t(j)] = score * double(shape.scale);
      largest = std::max(largest, scores[size_t(j)]);
    }
    for (double& score : scores) sum += score = std::exp(score - largest);
    for (int64_t j = 0; j < shape.key_tokens; ++j) {
      for (int64_t c = 0; c < d; ++c) want[size_t(c)] += scores[size_t(j)] / sum * double(at(v, j)[c]);
    }
    double worst = 0.0, size = 0.0;
    for (int64_t c = 0; c < d; ++c) {
      worst = std::max(
          worst, std::fabs(double(got.data<float>()[row * got.size(1) + head * d + c]) - want[size_t(c)]));
      size = std::max(size, std::fabs(want[size_t(c)]));
    }
    return std::isfinite(worst) ? worst / size / kBound : 2.0;
  }
};

Case attention_case(int64_t head_dim, int64_t group, int64_t queries, int64_t keys, int64_t sequences) {
  auto a = std::make_shared<Attention>();
  const int64_t heads = 32, kv_heads = heads / group;
  a->cached = queries == 1;
  a->shape = {.sequences = sequences,
              .query_tokens = queries,
              .key_tokens = keys,
              .query_offset = keys - queries,
              .heads = heads,
              .kv_heads = kv_heads,
              .head_dim = head_dim,
              .scale = 1.0f / std::sqrt(float(head_dim))};
  a->q = gpu_normal(sequences * queries, heads * head_dim, 1);
  a->out = require(Tensor::allocate(DType::f32, {sequences * queries, heads * head_dim}, gpu_device()));
  const double kv_bytes = 4.0 * double(sequences * kv_heads * keys * head_dim);
  const int64_t copies = a->cached ? gpu_copies(kv_bytes) : 1;
  for (int64_t i = 0; i < copies; ++i) {
    for (std::vector<Tensor>* side : {&a->keys, &a->values}) {
      const Tensor rows =
          gpu_normal(sequences * keys, kv_heads * head_dim, uint32_t(2 * i + (side == &a->keys)),
                     a->cached ? DType::bf16 : DType::f32);
      side->push_back(a->cached ? rows.reshaped({sequences, kv_heads, keys, head_dim}) : rows);
    }
  }
  const double pairs = a->cached ? double(keys) : double(queries) * double(queries + 1) / 2.0;
  const double operations = 4.0 * double(sequences * heads * head_dim) * pairs;
  const int repeats = repeats_for(kv_bytes, operations);
  Case c{.kernel = a->cached ? "decode" : "prefill"};
  c.operations = operations * repeats;
  c.bytes = kv_bytes * repeats;
  c.params["calls_per_sample"] = repeats;
  c.own_limit = gpu_limit(a->cached ? cuda::GpuProbe::copy : cuda::GpuProbe::gemm_bf16);
  c.verify = [a] { return a->error(); };
  c.run = on_gpu(repeats, [a](int turn) { a->run(turn); });
  return c;
}

}  // namespace

std::vector<NamedCase> gpu_attention_cases() {
  std::vector<NamedCase> cases;
  for (const int64_t d : {64, 128}) {
    for (const int64_t group : {1, 4, 8}) {
      for (const int64_t t : {512, 2048, 8192})
        cases.push_back({fmt::format("attn_prefill/d{}/gqa{}/t{}/b1", d, group, t),
                         [=] { return attention_case(d, group, t, t, 1); },
                         d == 128 && group == 4 && t >= 2048});
      for (const int64_t t : {256, 2048, 8192, 32768})
        cases.push_back({fmt::format("attn_decode/bf16/d{}/gqa{}/t{}/b1", d, group, t),
                         [=] { return attention_case(d, group, 1, t, 1); },
                         d == 128 && group == 4 && t >= 2048});
      cases.push_back({fmt::format("attn_decode/bf16/d{}/gqa{}/t2048/b8", d, group),
                       [=] { return attention_case(d, group, 1, 2048, 8); }, false});
    }
  }
  if (is_tiny()) {
    cases.push_back({"attn_prefill/tiny/d64/t16", [] { return attention_case(64, 8, 16, 16, 1); }, false});
    cases.push_back({"attn_decode/tiny/d64/t40", [] { return attention_case(64, 8, 1, 40, 1); }, false});
  }
  return cases;
}

}  // namespace pare::bench
