// bench/cpu_vector.cpp: the CPU backend apart from its matrix products. Attention of a prompt against the
// multiply-add rate (operations of the causal half only), everything else against the rate of memory.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "bench/cases.h"
#include "engine/backends/cpu/cpu_backend.h"
#include "engine/core/parallel.h"
#include "engine/core/random.h"

namespace pare::bench {
namespace {

std::vector<float> random_floats(int64_t count, float scale, uint32_t stream) {
  const Random random(7, RandomPurpose::test_data, stream);
  std::vector<float> values(static_cast<size_t>(count));
  parallel_ranges(count, 65536, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      values[size_t(i)] = scale * (2.0f * random.uniform(uint64_t(i)) - 1.0f);
  });
  return values;
}

std::string kernel_name(std::string_view op) {
  return fmt::format("{} {}", cpu::isa_name(cpu::best_isa()), op);
}

// One sequence with a cache [kv head, position, head_dim]; the last `queries` of `keys` positions ask.
struct AttentionProblem {
  int64_t queries, keys, heads, kv_heads, head_dim;
  std::unique_ptr<Backend> backend = make_cpu_backend();
  std::vector<float> q, out;
  std::vector<std::vector<float>> k, v;  // copies
  size_t turn = 0;

  AttentionProblem(int64_t query_count, int64_t key_count, int64_t head_count, int64_t kv_head_count,
                   int64_t dim)
      : queries(query_count), keys(key_count), heads(head_count), kv_heads(kv_head_count), head_dim(dim) {
    q = random_floats(queries * heads * head_dim, 1.0f, 1);
    out.resize(q.size());
    const int64_t copies = queries > 1 ? 1 : copies_beyond_cache(cache_bytes());
    for (int64_t i = 0; i < copies; ++i) {
      k.push_back(i == 0 ? random_floats(kv_heads * keys * head_dim, 1.0f, 2) : std::vector<float>(k[0]));
      v.push_back(i == 0 ? random_floats(kv_heads * keys * head_dim, 1.0f, 3) : std::vector<float>(v[0]));
    }
  }

  double cache_bytes() const { return 8.0 * double(kv_heads * keys * head_dim); }
  double operations() const {
    const double visible = double(queries) * double(keys) - 0.5 * double(queries) * double(queries - 1);
    return 4.0 * visible * double(heads * head_dim);
  }
  float scale() const { return 1.0f / std::sqrt(float(head_dim)); }

  void run() {
    const size_t copy = turn++ % k.size();
    const int64_t stride = heads * head_dim;
    backend->attention({.q = q.data(),
                        .k = k[copy].data(),
                        .v = v[copy].data(),
                        .out = out.data(),
                        .kv_dtype = DType::f32,
                        .sequences = 1,
                        .query_tokens = queries,
                        .key_tokens = keys,
                        .query_offset = keys - queries,
                        .heads = heads,
                        .kv_heads = kv_heads,
                        .head_dim = head_dim,
                        .q_stride = stride,
                        .out_stride = stride,
                        .kv_sequence_stride = kv_heads * keys * head_dim,
                        .kv_head_stride = keys * head_dim,
                        .kv_position_stride = head_dim,
                        .scale = scale(),
                        .softcap = 0.0f,
                        .window = 0,
                        .causal = true});
  }

  double error_share() {
    run();
    double worst = 0.0;
    for (int64_t i = 0; i < queries; i += std::max<int64_t>(1, queries / 7)) {
      for (int64_t h = 0; h < heads; h += 2) worst = std::max(worst, row_error(i, h));
    }
    return worst / 2e-5;
  }

 private:
  double row_error(int64_t i, int64_t h) const {
    const float* query = &q[size_t((i * heads + h) * head_dim)];
    const size_t offset = size_t(h / (heads / kv_heads) * keys * head_dim);
    std::vector<double> sums(size_t(head_dim), 0.0);
    double total = 0.0;
    for (int64_t j = 0; j <= keys - queries + i; ++j) {
      const size_t row = offset + size_t(j * head_dim);
      double score = 0.0;
      for (size_t d = 0; d < size_t(head_dim); ++d) score += double(query[d]) * double(k[0][row + d]);
      const double weight = std::exp(score * double(scale()));
      total += weight;
      for (size_t d = 0; d < size_t(head_dim); ++d) sums[d] += weight * double(v[0][row + d]);
    }
    double worst = 0.0;
    for (size_t d = 0; d < size_t(head_dim); ++d) {
      worst =
          std::max(worst, std::fabs(double(out[size_t((i * heads + h) * head_dim) + d]) - sums[d] / total));
    }
    return worst;
  }
};

Case attention_case(int64_t queries, int64_t keys, int64_t heads, int64_t kv_heads, int64_t head_dim) {
  auto p = std::make_shared<AttentionProblem>(queries, keys, heads, kv_heads, head_dim);
  Case c{.kernel = kernel_name("attention")};
  c.bytes = p->cache_bytes();
  c.operations = p->operations();
  c.limit = queries > 1 ? Probe::cpu_fma_f32 : Probe::cpu_read;
  c.verify = [p] { return p->error_share(); };
  c.run = [p] { p->run(); };
  return c;
}

struct Rows {
  int64_t rows, columns;
  std::unique_ptr<Backend> backend = make_cpu_backend();
  std::vector<float> x, y;
  std::vector<double> x_sums, y_sums, result;
  std::vector<int32_t> targets, best;

  Rows(int64_t row_count, int64_t column_count, float scale)
      : rows(row_count),
        columns(column_count),
        x(random_floats(rows * columns, scale, 4)),
        y(random_floats(rows * columns, scale, 5)),
        x_sums(size_t(rows)),
        y_sums(size_t(rows)),
        result(size_t(rows)),
        targets(size_t(rows), 1),
        best(size_t(rows)) {}

  double bytes() const { return 4.0 * double(rows * columns); }
  void cross_entropy(const std::vector<float>& logits, std::vector<double>& sums) {
    backend->cross_entropy({.logits = logits.data(),
                            .targets = targets.data(),
                            .log_sum_exp = sums.data(),
                            .nll = result.data(),
                            .best = best.data(),
                            .rows = rows,
                            .columns = columns,
                            .stride = columns});
  }
  double exact_log_sum_exp(const std::vector<float>& logits, int64_t row) const {
    double sum = 0.0;
    for (int64_t c = 0; c < columns; ++c) sum += std::exp(double(logits[size_t(row * columns + c)]));
    return std::log(sum);
  }
};

Case cross_entropy_case(int64_t rows, int64_t columns) {
  auto p = std::make_shared<Rows>(rows, columns, 12.0f);
  Case c{.kernel = kernel_name("cross_entropy"), .bytes = p->bytes(), .limit = Probe::cpu_read};
  c.run = [p] { p->cross_entropy(p->x, p->x_sums); };
  c.verify = [p, c] {
    c.run();
    double worst = 0.0;
    for (int64_t r = 0; r < p->rows; r += std::max<int64_t>(1, p->rows / 9)) {
      worst = std::max(worst, std::fabs(p->x_sums[size_t(r)] - p->exact_log_sum_exp(p->x, r)));
    }
    return worst / 1e-6;
  };
  return c;
}

Case divergence_case(int64_t rows, int64_t columns) {
  auto p = std::make_shared<Rows>(rows, columns, 6.0f);
  p->cross_entropy(p->x, p->x_sums);
  p->cross_entropy(p->y, p->y_sums);
  Case c{.kernel = kernel_name("divergence"), .bytes = 2.0 * p->bytes(), .limit = Probe::cpu_read};
  c.run = [p] {
    p->backend->divergence({.logits_p = p->x.data(),
                            .logits_q = p->y.data(),
                            .log_sum_exp_p = p->x_sums.data(),
                            .log_sum_exp_q = p->y_sums.data(),
                            .kl = p->result.data(),
                            .rows = p->rows,
                            .columns = p->columns,
                            .p_stride = p->columns,
                            .q_stride = p->columns});
  };
  c.verify = [p, c] {
    c.run();
    double kl = 0.0;
    for (size_t i = 0; i < size_t(p->columns); ++i) {
      const double log_p = double(p->x[i]) - p->x_sums[0];
      kl += std::exp(log_p) * (log_p - (double(p->y[i]) - p->y_sums[0]));
    }
    return std::fabs(p->result[0] - kl) / (1e-6 * (1.0 + kl));
  };
  return c;
}

Case rms_norm_case(int64_t rows, int64_t columns) {
  auto p = std::make_shared<Rows>(rows, columns, 2.0f);
  Case c{.kernel = kernel_name("rms_norm"), .bytes = 2.0 * p->bytes(), .limit = Probe::cpu_copy};
  c.run = [p] {
    p->backend->rms_norm({.x = p->x.data(),
                          .gain = p->x.data(),
                          .out = p->y.data(),
                          .tokens = p->rows,
                          .channels = p->columns,
                          .x_stride = p->columns,
                          .out_stride = p->columns,
                          .eps = 1e-5f,
                          .gain_plus_one = false});
  };
  c.verify = [p, c] {
    c.run();
    double squares = 0.0;
    for (size_t i = 0; i < size_t(p->columns); ++i) squares += double(p->x[i]) * double(p->x[i]);
    const double inverse = 1.0 / std::sqrt(squares / double(p->columns) + 1e-5);
    double worst = 0.0;
    for (size_t i = 0; i < size_t(p->columns); ++i) {
      worst = std::max(worst, std::fabs(double(p->y[i]) - double(p->x[i]) * inverse * double(p->x[i])));
    }
    return worst / 2e-6;
  };
  return c;
}

Case gated_case(int64_t rows, int64_t columns) {
  auto p = std::make_shared<Rows>(rows, columns, 4.0f);
  auto out = std::make_shared<std::vector<float>>(p->x.size());
  Case c{.kernel = kernel_name("gated_activation"), .bytes = 3.0 * p->bytes(), .limit = Probe::cpu_copy};
  c.run = [p, out] {
    p->backend->gated_activation({.gate = p->x.data(),
                                  .up = p->y.data(),
                                  .out = out->data(),
                                  .rows = p->rows,
                                  .columns = p->columns,
                                  .gate_stride = p->columns,
                                  .up_stride = p->columns,
                                  .out_stride = p->columns,
                                  .kind = Activation::silu});
  };
  c.verify = [p, out, c] {
    c.run();
    double worst = 0.0;
    for (size_t i = 0; i < out->size(); i += 101) {
      const double gate = double(p->x[i]);
      const double exact = gate / (1.0 + std::exp(-gate)) * double(p->y[i]);
      worst = std::max(worst, std::fabs(double((*out)[i]) - exact));
    }
    return worst / 4e-6;
  };
  return c;
}

}  // namespace

std::vector<NamedCase> vector_cases() {
  std::vector<NamedCase> cases;
  const struct {
    const char* name;
    int64_t heads, kv_heads, head_dim;
  } shapes[] = {
      {"d64/mha", 9, 9, 64}, {"d64/gqa3", 9, 3, 64}, {"d128/gqa4", 16, 4, 128}, {"d80/mha", 8, 8, 80}};
  for (const auto& s : shapes) {
    for (const int64_t t : {128, 512, 2048}) {
      cases.push_back({fmt::format("attn_prefill/{}/t{}/b1", s.name, t),
                       [=] { return attention_case(t, t, s.heads, s.kv_heads, s.head_dim); }});
    }
    for (const int64_t t : {256, 2048, 8192}) {
      cases.push_back({fmt::format("attn_decode/f32/{}/t{}/b1", s.name, t),
                       [=] { return attention_case(1, t, s.heads, s.kv_heads, s.head_dim); }});
    }
  }
  cases.push_back({"cross_entropy/512x49152", [] { return cross_entropy_case(512, 49'152); }});
  cases.push_back({"cross_entropy/128x256000", [] { return cross_entropy_case(128, 256'000); }});
  cases.push_back({"divergence/512x49152", [] { return divergence_case(512, 49'152); }});
  cases.push_back({"rms_norm/65536x576", [] { return rms_norm_case(65'536, 576); }});
  cases.push_back({"rms_norm/8192x4096", [] { return rms_norm_case(8'192, 4'096); }});
  cases.push_back({"gated_silu/32768x1536", [] { return gated_case(32'768, 1'536); }});
  return cases;
}

}  // namespace pare::bench
