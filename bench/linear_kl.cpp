// bench/linear_kl.cpp: final norm, head and KL to a teacher with their gradients, in chunks of rows, beside
// the same with whole logits on both sides. The teacher is another set of hidden states before the same head.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/cases.h"
#include "bench/model_case.h"
#include "distill/head_loss.h"
#include "engine/core/random.h"

namespace pare::bench {
namespace {

constexpr double kBound = 1e-5;  // of the largest gradient: the sums have another order

Tensor random_rows(int64_t rows, int64_t columns, uint32_t stream) {
  const Random random(7, RandomPurpose::test_data, stream);
  Tensor tensor = require(Tensor::allocate(DType::f32, {rows, columns}));
  for (int64_t i = 0; i < tensor.numel(); ++i) tensor.mutable_data<float>()[i] = random.normal(uint64_t(i));
  return tensor;
}

// Logits of its own hidden states, made for the rows that are asked for.
class RowsTeacher : public Teacher {
 public:
  RowsTeacher(const HeadParts& head, Tensor hidden, int64_t most_rows)
      : head_(head), hidden_(std::move(hidden)) {
    logits_ = require(Tensor::allocate(DType::f32, {most_rows, head.head.out()}));
    normed_ = require(Tensor::allocate(DType::f32, {most_rows, head.head.in()}));
    workspace_ = require(Workspace::reserve(head.head.workspace_bytes(most_rows), Device::cpu()));
  }
  int64_t vocabulary_size() const override { return head_.vocabulary_size; }
  int64_t hidden_size() const override { return head_.head.in(); }
  Status check(const LossConfig&, const TeacherNeeds&) const override { return {}; }
  Status reserve(const Batch&, int64_t, const TeacherNeeds&) override { return {}; }
  uint64_t held_bytes() const override { return logits_.size_bytes(); }
  Status start(const TeacherBatch&) override { return {}; }
  Result<TeacherRows> rows(int64_t begin, int64_t end) override {
    Tensor logits = logits_.rows(0, end - begin), normed = normed_.rows(0, end - begin);
    head_.norm.forward(hidden_.rows(begin, end), normed);
    head_.head.multiply(normed, /*accumulate=*/false, logits, workspace_);
    return TeacherRows{.logits = std::move(logits), .top_ids = {}, .top_log_probs = {}};
  }
  const Tensor& hidden(int) const override { return hidden_; }
  const AttentionParts& attention(int) const override { return parts_; }

 private:
  HeadParts head_;
  Tensor hidden_, logits_, normed_;
  Workspace workspace_;
  AttentionParts parts_;
};

struct Problem {
  std::unique_ptr<TrainingModel> student;
  LossConfig config = LossConfig::defaults(LossKind::kl, true);
  Tensor hidden, targets, dhidden, whole_dhidden;
  std::unique_ptr<RowsTeacher> teacher, whole_teacher;
  Workspace workspace, whole_workspace;
  int64_t tokens = 0, chunk_rows = 0;

  void run(Teacher& who, int64_t rows, Tensor& gradient, Workspace& scratch) {
    (void)require(run_head_loss(
        head_of(*student),
        {.config = config, .teacher = &who, .chunk_rows = rows, .gradient_scale = 1.0f / float(tokens)},
        hidden, targets, gradient, scratch));
  }
  void run_chunked() { run(*teacher, chunk_rows, dhidden, workspace); }
  void run_whole() { run(*whole_teacher, tokens, whole_dhidden, whole_workspace); }
  double error() {
    run_chunked();
    run_whole();
    double error = 0.0, largest = 0.0;
    for (int64_t i = 0; i < dhidden.numel(); ++i) {
      const double expected = double(whole_dhidden.data<float>()[i]);
      error = std::max(error, std::fabs(double(dhidden.data<float>()[i]) - expected));
      largest = std::max(largest, std::fabs(expected));
    }
    return std::isfinite(largest) && largest > 0.0 ? error / largest / kBound : 2.0;
  }
};

Case linear_kl_case(const ModelInputs& inputs, int64_t tokens) {
  auto p = std::make_shared<Problem>();
  p->student = require(TrainingModel::open(open_source(inputs.model), Device::cpu(), {}));
  const HeadParts head = head_of(*p->student);
  const int64_t channels = head.head.in(), vocabulary = head.head.out();
  p->tokens = tokens;
  p->chunk_rows = loss_chunk_rows(tokens, 2 * vocabulary, kLossBytes);
  p->hidden = random_rows(tokens, channels, 1);
  const Tensor others = random_rows(tokens, channels, 2);
  p->targets = require(Tensor::allocate(DType::i32, {tokens}));
  p->dhidden = require(Tensor::allocate(DType::f32, {tokens, channels}));
  p->whole_dhidden = require(Tensor::allocate(DType::f32, {tokens, channels}));
  p->teacher = std::make_unique<RowsTeacher>(head, others, p->chunk_rows);
  p->whole_teacher = std::make_unique<RowsTeacher>(head, others, tokens);
  p->workspace = require(Workspace::reserve(head_loss_bytes(head, p->chunk_rows, tokens), Device::cpu()));
  p->whole_workspace = require(Workspace::reserve(head_loss_bytes(head, tokens, tokens), Device::cpu()));

  Case c{.kernel = fmt::format("run_head_loss, {} rows", p->chunk_rows)};
  c.operations =
      8.0 * double(tokens) * double(channels) * double(vocabulary);  // three products, one of the teacher
  c.tokens = double(tokens);
  c.limit = Probe::cpu_fma_f32;
  c.params["head"] = fmt::format("{}x{}", vocabulary, channels);
  c.params["tokens"] = tokens;
  c.params["logit_bytes"] = p->chunk_rows * vocabulary * 8;
  c.params["whole_logit_bytes"] = tokens * vocabulary * 12;
  c.verify = [p] { return p->error(); };
  c.run = [p] { p->run_chunked(); };
  c.peer.name = "whole logits";
  c.peer.version = "pare";
  c.peer.run = [p] { p->run_whole(); };
  return c;
}

}  // namespace

std::vector<NamedCase> linear_kl_cases(const ModelInputs& inputs) {
  std::vector<NamedCase> cases;
  for (const int64_t tokens : {512, 2048})
    cases.push_back({fmt::format("linear_kl/{}/t{}", base_name(inputs.model), tokens),
                     [inputs, tokens] { return linear_kl_case(inputs, tokens); }, false});
  return cases;
}

}  // namespace pare::bench
