// bench/training_vector.cpp: attention and the loss of rows of logits with their gradients. Attention against
// the multiply-add rate, counted for the causal half: two products forward, five backward. Losses against the
// rate of memory: logits are read and written, a teacher's are read.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "bench/cases.h"
#include "engine/backends/cpu/cpu_backend.h"
#include "engine/backends/reference/reference_backend.h"
#include "engine/core/parallel.h"
#include "engine/core/random.h"
#include "engine/tensor/training_backend.h"

namespace pare::bench {
namespace {

void fill(std::vector<float>& values, float scale, uint32_t stream) {
  const Random random(7, RandomPurpose::test_data, stream);
  parallel_ranges(int64_t(values.size()), 65536, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      values[size_t(i)] = scale * (2.0f * random.uniform(uint64_t(i)) - 1.0f);
  });
}

std::string kernel_name(std::string_view op) {
  return fmt::format("{} {}", cpu::isa_name(cpu::best_isa()), op);
}

// Causal attention of one sequence, as training calls it.
struct AttentionProblem {
  int64_t tokens, heads, kv_heads, head_dim;
  bool with_forward;
  std::unique_ptr<Backend> backend = make_cpu_backend();
  std::vector<float> q, k, v, out, log_sum_exp, dout, dq, dk, dv;

  AttentionProblem(int64_t t, int64_t h, int64_t kv, int64_t d, bool forward_too)
      : tokens(t),
        heads(h),
        kv_heads(kv),
        head_dim(d),
        with_forward(forward_too),
        log_sum_exp(size_t(t * h)) {
    for (std::vector<float>* x : {&q, &out, &dout, &dq}) x->resize(size_t(t * h * d));
    for (std::vector<float>* x : {&k, &v, &dk, &dv}) x->resize(size_t(t * kv * d));
    fill(q, 1.0f, 1);
    fill(k, 1.0f, 2);
    fill(v, 1.0f, 3);
    fill(dout, 1.0f, 4);
    forward(*backend);
  }

  double operations() const {
    const double pairs = 0.5 * double(tokens) * double(tokens + 1) * double(heads * head_dim);
    return 2.0 * pairs * (with_forward ? 7.0 : 5.0);
  }
  float scale() const { return 1.0f / std::sqrt(float(head_dim)); }

  void forward(Backend& b) {
    AttentionArgs args{.q = q.data(),
                       .k = k.data(),
                       .v = v.data(),
                       .out = out.data(),
                       .kv_dtype = DType::f32,
                       .sequences = 1,
                       .query_tokens = tokens,
                       .key_tokens = tokens,
                       .query_offset = 0,
                       .heads = heads,
                       .kv_heads = kv_heads,
                       .head_dim = head_dim,
                       .q_stride = heads * head_dim,
                       .out_stride = heads * head_dim,
                       .kv_sequence_stride = tokens * kv_heads * head_dim,
                       .kv_head_stride = head_dim,
                       .kv_position_stride = kv_heads * head_dim,
                       .scale = scale(),
                       .softcap = 0.0f,
                       .window = 0,
                       .causal = true};
    args.log_sum_exp = log_sum_exp.data();
    b.attention(args);
  }
  void backward(Backend& b) {
    b.training()->attention_backward({.q = q.data(),
                                      .k = k.data(),
                                      .v = v.data(),
                                      .out = out.data(),
                                      .log_sum_exp = log_sum_exp.data(),
                                      .dout = dout.data(),
                                      .dq = dq.data(),
                                      .dk = dk.data(),
                                      .dv = dv.data(),
                                      .sequences = 1,
                                      .tokens = tokens,
                                      .heads = heads,
                                      .kv_heads = kv_heads,
                                      .head_dim = head_dim,
                                      .q_stride = heads * head_dim,
                                      .kv_stride = kv_heads * head_dim,
                                      .out_stride = heads * head_dim,
                                      .dout_stride = heads * head_dim,
                                      .dq_stride = heads * head_dim,
                                      .dkv_stride = kv_heads * head_dim,
                                      .scale = scale(),
                                      .softcap = 0.0f,
                                      .window = 0,
                                      .causal = true});
  }
  void run() {
    if (with_forward) forward(*backend);
    backward(*backend);
  }

  double error_share() {
    run();
    const std::vector<float> got[] = {dq, dk, dv};
    backward(*make_reference_backend());
    double worst = 0.0;
    for (const auto& [ours, exact] : {std::pair{&got[0], &dq}, {&got[1], &dk}, {&got[2], &dv}}) {
      double error = 0.0, largest = 0.0;
      for (size_t i = 0; i < exact->size(); ++i) {
        error = std::max(error, std::fabs(double((*ours)[i]) - double((*exact)[i])));
        largest = std::max(largest, std::fabs(double((*exact)[i])));
      }
      worst = std::max(worst, error / (2e-5 * largest));
    }
    return worst;
  }
};

Case attention_case(int64_t tokens, int64_t heads, int64_t kv_heads, int64_t head_dim, bool with_forward) {
  auto p = std::make_shared<AttentionProblem>(tokens, heads, kv_heads, head_dim, with_forward);
  Case c{.kernel = kernel_name(with_forward ? "attention, attention_backward" : "attention_backward")};
  c.bytes = 4.0 * double(tokens * head_dim * (4 * heads + 4 * kv_heads));
  c.operations = p->operations();
  c.limit = Probe::cpu_fma_f32;
  c.verify = [p] { return p->error_share(); };
  c.run = [p] { p->run(); };
  return c;
}

// Each call finds the gradient of the call before as its logits: the time does not depend on the values.
struct LossProblem {
  LossRowsArgs args{};
  std::unique_ptr<Backend> backend = make_cpu_backend();
  std::vector<float> logits, teacher;
  std::vector<int32_t> targets, ids;  // ids: the first `known` of each row's teacher
  std::vector<float> log_probs;
  std::vector<double> cross_entropy, divergence;

  LossProblem(int64_t rows, int64_t columns, Divergence kind, float alpha, float temperature, int64_t known)
      : logits(size_t(rows * columns)),
        teacher(kind == Divergence::none || known > 0 ? 0 : logits.size()),
        targets(size_t(rows), 1),
        cross_entropy(size_t(rows)),
        divergence(size_t(rows)) {
    fill(teacher, 6.0f, 6);
    for (int64_t i = 0; i < rows * known; ++i) {
      ids.push_back(int32_t(i % known * (columns / known)));
      log_probs.push_back(-1.0f - std::log(float(known)));  // 1 / e of the mass is known
    }
    args = {.logits = logits.data(),
            .teacher = teacher.empty() ? nullptr : teacher.data(),
            .top_ids = ids.empty() ? nullptr : ids.data(),
            .top_log_probs = log_probs.empty() ? nullptr : log_probs.data(),
            .targets = targets.data(),
            .cross_entropy = cross_entropy.data(),
            .divergence = divergence.data(),
            .rows = rows,
            .columns = columns,
            .real_columns = columns,
            .stride = columns,
            .teacher_stride = columns,
            .top_count = known,
            .kind = kind,
            .tail = TeacherTail::bucket,
            .alpha = alpha,
            .temperature = temperature,
            .beta = 0.5f,
            .squares_temperature = true,
            .softcap = 0.0f,
            .gradient_scale = 1.0f};
  }

  double bytes() const { return 4.0 * double(2 * logits.size() + teacher.size()); }
  void run() { backend->training()->loss_rows(args); }

  // Of the first rows.
  double error_share() {
    fill(logits, 6.0f, 5);
    const size_t count = size_t(args.columns * std::min<int64_t>(args.rows, 4));
    std::vector<float> exact(logits.begin(), logits.begin() + std::ptrdiff_t(count));
    run();
    const std::vector<double> got = divergence;
    LossRowsArgs few = args;
    few.logits = exact.data();
    few.rows = std::min<int64_t>(args.rows, 4);
    make_reference_backend()->training()->loss_rows(few);
    double worst = 0.0;
    for (size_t i = 0; i < count; ++i)
      worst = std::max(worst, std::fabs(double(logits[i]) - double(exact[i])) / 4e-6);
    for (size_t r = 0; r < size_t(few.rows); ++r)
      worst = std::max(worst, std::fabs(got[r] - divergence[r]) / 1e-5);
    return worst;
  }
};

Case loss_case(int64_t rows, int64_t columns, Divergence kind, float alpha, float temperature,
               int64_t known) {
  auto p = std::make_shared<LossProblem>(rows, columns, kind, alpha, temperature, known);
  Case c{.kernel = kernel_name("loss_rows"), .bytes = p->bytes(), .limit = Probe::cpu_copy};
  c.shows_time = true;
  c.verify = [p] { return p->error_share(); };
  c.run = [p] { p->run(); };
  return c;
}

}  // namespace

std::vector<NamedCase> training_vector_cases() {
  std::vector<NamedCase> cases;
  for (const int64_t t : {512, 1024}) {
    cases.push_back(
        {fmt::format("attn_backward/d64/gqa3/t{}", t), [=] { return attention_case(t, 9, 3, 64, false); }});
    cases.push_back(
        {fmt::format("attn_training/d64/gqa3/t{}", t), [=] { return attention_case(t, 9, 3, 64, true); }});
  }
  cases.push_back({"attn_backward/d128/gqa4/t512", [] { return attention_case(512, 16, 4, 128, false); }});
  const struct {
    const char* name;
    Divergence kind;
    float alpha, temperature;
    int64_t known;
  } losses[] = {{"ce", Divergence::none, 1.0f, 1.0f, 0},
                {"kl", Divergence::forward_kl, 0.0f, 1.0f, 0},
                {"kl/known64", Divergence::forward_kl, 0.0f, 1.0f, 64},
                {"ce+kl/temperature2", Divergence::forward_kl, 0.5f, 2.0f, 0},
                {"reverse_kl", Divergence::reverse_kl, 0.0f, 1.0f, 0},
                {"jsd", Divergence::jensen_shannon, 0.0f, 1.0f, 0}};
  for (const auto& l : losses) {
    const auto kind = l.kind;
    const float alpha = l.alpha, temperature = l.temperature;
    const int64_t known = l.known;
    cases.push_back({fmt::format("loss_rows/{}/1024x49152", l.name),
                     [=] { return loss_case(1024, 49'152, kind, alpha, temperature, known); }});
  }
  return cases;
}

}  // namespace pare::bench
