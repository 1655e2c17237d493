#include "distill/head_loss.h"

#include <cmath>

#include "tests/distill/training_support.h"
#include "tests/support/compare.h"
#include "tests/support/tiny_model.h"

namespace pare {
namespace {

using test::checked;

constexpr int64_t kTokens = 37, kVocabulary = 40, kChannels = 24;

using Rows = std::vector<std::vector<double>>;

Rows rows_of(const Tensor& tensor) {
  Rows rows(size_t(tensor.size(0)), std::vector<double>(size_t(tensor.size(1))));
  for (size_t r = 0; r < rows.size(); ++r)
    for (size_t c = 0; c < rows[r].size(); ++c) rows[r][c] = tensor.data<float>()[r * rows[r].size() + c];
  return rows;
}

Tensor tensor_of(const Rows& rows) {
  std::vector<float> values;
  for (const auto& row : rows) values.insert(values.end(), row.begin(), row.end());
  return test::floats({int64_t(rows.size()), int64_t(rows.front().size())}, values, Device::cpu());
}

std::vector<double> softmax(const std::vector<double>& logits, size_t count, double temperature) {
  std::vector<double> p(count);
  double sum = 0.0;
  for (size_t c = 0; c < count; ++c) sum += p[c] = std::exp(logits[c] / temperature);
  for (double& value : p) value /= sum;
  return p;
}

// Everything at once in double, the plain way: RMS norm, head, cap, alpha CE + (1 - alpha) T^2 KL, and back.
struct Plain {
  double cross_entropy = 0.0, divergence = 0.0;
  Rows dhidden, dhead;
  std::vector<double> dgain;
};

struct Problem {
  Rows hidden, head, teacher;
  std::vector<double> gain;
  std::vector<int32_t> targets;
  double eps, softcap, alpha, temperature, gradient_scale;
  size_t real_columns;
};

void add_row(const Problem& problem, size_t t, Plain& out) {
  const std::vector<double>& x = problem.hidden[t];
  double squares = 0.0;
  for (const double value : x) squares += value * value;
  const double r = 1.0 / std::sqrt(squares / double(kChannels) + problem.eps);
  std::vector<double> normed(kChannels), logits(kVocabulary), slope(kVocabulary, 1.0);
  for (size_t c = 0; c < kChannels; ++c) normed[c] = x[c] * r * problem.gain[c];
  for (size_t v = 0; v < kVocabulary; ++v) {
    for (size_t c = 0; c < kChannels; ++c) logits[v] += normed[c] * problem.head[v][c];
    if (problem.softcap == 0.0) continue;
    const double tanh = std::tanh(logits[v] / problem.softcap);
    logits[v] = problem.softcap * tanh;
    slope[v] = 1.0 - tanh * tanh;
  }
  const auto p = softmax(logits, problem.real_columns, 1.0);
  const auto student = softmax(logits, problem.real_columns, problem.temperature);
  const auto teacher = softmax(problem.teacher[t], problem.real_columns, problem.temperature);
  const auto target = size_t(problem.targets[t]);
  out.cross_entropy -= std::log(p[target]);
  std::vector<double> dnormed(kChannels);
  for (size_t v = 0; v < problem.real_columns; ++v) {
    out.divergence += teacher[v] * std::log(teacher[v] / student[v]);
    const double g = problem.gradient_scale * slope[v] *
                     (problem.alpha * (p[v] - double(v == target)) +
                      (1.0 - problem.alpha) * problem.temperature * (student[v] - teacher[v]));
    for (size_t c = 0; c < kChannels; ++c) {
      dnormed[c] += g * problem.head[v][c];
      out.dhead[v][c] += g * normed[c];
    }
  }
  double sum = 0.0;
  for (size_t c = 0; c < kChannels; ++c) {
    out.dgain[c] += dnormed[c] * x[c] * r;
    sum += dnormed[c] * problem.gain[c] * x[c];
  }
  for (size_t c = 0; c < kChannels; ++c)
    out.dhidden[t][c] = r * dnormed[c] * problem.gain[c] - x[c] * r * r * r / double(kChannels) * sum;
}

Plain plain(const Problem& problem) {
  Plain out{.dhidden = Rows(kTokens, std::vector<double>(kChannels)),
            .dhead = Rows(kVocabulary, std::vector<double>(kChannels)),
            .dgain = std::vector<double>(kChannels)};
  for (size_t t = 0; t < kTokens; ++t)
    if (problem.targets[t] >= 0) add_row(problem, t, out);
  return out;
}

class HeadLossTest : public test::TrainingTest {
 protected:
  void SetUp() override {
    TrainingTest::SetUp();
    if (IsSkipped()) return;
    open(test::kTinyLlama);
    hidden_ = test::normals({kTokens, kChannels}, device_, 1);
    teacher_logits_ = test::normals({kTokens, 43}, device_, 2, 2.0f);  // padded: three ids that nobody has
    targets_ = checked(Tensor::allocate(DType::i32, {kTokens}, device_));
    for (int64_t t = 0; t < kTokens; ++t)  // rows 20 to 27 are masked: whole chunks of 4
      targets_.mutable_data<int32_t>()[t] = t >= 20 && t < 28 ? -1 : int32_t((t * 7) % kVocabulary);
  }

  void open(const char* config) {
    student_ = checked(TrainingModel::open(test::tiny_model(config), device_, {}));
    student_->clear_gradients();
  }

  const Parameter& named(std::string_view name) const {
    for (const auto& parameter : student_->parameters())
      if (parameter->name == name) return *parameter;
    PARE_ASSERT(false, "no {}", name);
    std::abort();
  }

  struct Outcome {
    LossSums sums;
    Tensor dhidden;
  };
  Outcome run(const LossConfig& config, int64_t chunk_rows, float softcap = 0.0f, float scale = 0.25f) {
    student_->clear_gradients();
    HeadParts head = head_of(*student_);
    HeadParts capped{
        .norm = head.norm, .head = head.head, .softcap = softcap, .vocabulary_size = head.vocabulary_size};
    Workspace workspace =
        checked(Workspace::reserve(head_loss_bytes(capped, chunk_rows, hidden_.size(0)), device_));
    test::FixedTeacher teacher(teacher_logits_);
    Outcome outcome{.sums = {},
                    .dhidden = test::normals({kTokens, kChannels}, device_, 9)};  // to be overwritten
    outcome.sums = checked(run_head_loss(
        capped, {.config = config, .teacher = &teacher, .chunk_rows = chunk_rows, .gradient_scale = scale},
        hidden_, targets_, outcome.dhidden, workspace));
    student_->finish_gradients();
    asked_ = teacher.asked;
    EXPECT_EQ(workspace.used(), 0u);
    return outcome;
  }

  std::unique_ptr<TrainingModel> student_;
  Tensor hidden_, teacher_logits_, targets_;
  std::vector<int64_t> asked_;
};
PARE_TRAINING_SUITE(HeadLossTest);

TEST_P(HeadLossTest, EqualsThePlainComputationInDouble) {
  for (const float softcap : {0.0f, 3.0f})
    for (const double alpha : {0.0, 0.4, 1.0}) {
      const LossConfig config{
          .kind = alpha == 1.0 ? LossKind::ce : LossKind::ce_kl, .alpha = alpha, .temperature = 2.0};
      const Outcome outcome = run(config, 4, softcap);
      Problem problem{.hidden = rows_of(hidden_),
                      .head = rows_of(named("lm_head.weight").value),
                      .teacher = rows_of(teacher_logits_),
                      .gain = {},
                      .targets = {targets_.data<int32_t>(), targets_.data<int32_t>() + kTokens},
                      .eps = student_->config().norm_eps,
                      .softcap = softcap,
                      .alpha = alpha,
                      .temperature = 2.0,
                      .gradient_scale = 0.25,
                      .real_columns = kVocabulary};
      for (const float value : test::values_of(named("model.norm.weight").value))
        problem.gain.push_back(value);
      const Plain expected = plain(problem);
      EXPECT_EQ(outcome.sums.tokens, kTokens - 8);
      EXPECT_NEAR(outcome.sums.cross_entropy, expected.cross_entropy, 1e-5 * expected.cross_entropy);
      if (alpha < 1.0) {
        EXPECT_NEAR(outcome.sums.divergence, expected.divergence, 1e-5 * expected.divergence);
      }
      EXPECT_NEAR(outcome.sums.total(config),
                  alpha * outcome.sums.cross_entropy + (1.0 - alpha) * 4.0 * outcome.sums.divergence, 1e-9);
      EXPECT_LT(test::relative_error(outcome.dhidden, tensor_of(expected.dhidden)), 2e-6);
      EXPECT_LT(test::relative_error(named("lm_head.weight").gradient, tensor_of(expected.dhead)), 2e-6);
      EXPECT_LT(test::relative_error(named("model.norm.weight").gradient, tensor_of({expected.dgain})), 2e-6);
    }
}

TEST_P(HeadLossTest, DoesNotDependOnTheChunk) {
  for (const char* kind : {"ce", "kl", "ce+kl", "reverse-kl", "jsd", "tvd"}) {
    const LossConfig config = LossConfig::defaults(*loss_kind_from_name(kind), false);
    const Outcome whole = run(config, kTokens);
    const Tensor head = checked(converted(named("lm_head.weight").gradient, DType::f32));
    const Tensor gain = checked(converted(named("model.norm.weight").gradient, DType::f32));
    for (const int64_t rows : {1, 5, 32}) {
      const Outcome chunked = run(config, rows);
      EXPECT_NEAR(chunked.sums.total(config), whole.sums.total(config),
                  1e-6 * std::fabs(whole.sums.total(config)))
          << kind;
      EXPECT_LT(test::relative_error(chunked.dhidden, whole.dhidden), 2e-6) << kind << " " << rows;
      EXPECT_LT(test::relative_error(named("lm_head.weight").gradient, head), 2e-6) << kind << " " << rows;
      EXPECT_LT(test::relative_error(named("model.norm.weight").gradient, gain), 4e-6) << kind << " " << rows;
    }
  }
}

TEST_P(HeadLossTest, MaskedRowsCountForNothing) {
  const Outcome outcome = run(LossConfig{}, 4);
  EXPECT_EQ(asked_, std::vector<int64_t>({4, 4, 4, 4, 4, 4, 4, 1}));  // two chunks have no target at all
  for (int64_t t = 20; t < 28; ++t)
    for (int64_t c = 0; c < kChannels; ++c) EXPECT_EQ(outcome.dhidden.data<float>()[t * kChannels + c], 0.0f);
  // What a masked row holds changes nothing.
  const Tensor before = checked(converted(named("lm_head.weight").gradient, DType::f32));
  for (int64_t c = 0; c < kChannels; ++c) hidden_.mutable_data<float>()[22 * kChannels + c] = 100.0f;
  const Outcome again = run(LossConfig{}, 4);
  EXPECT_EQ(again.sums.divergence, outcome.sums.divergence);
  EXPECT_TRUE(test::same_bytes(named("lm_head.weight").gradient, before));
}

TEST_P(HeadLossTest, TheTeachersOwnLogitsCostNothing) {
  // hidden and head of the student as its own teacher, shifted by a constant per row
  HeadParts head = head_of(*student_);
  Workspace workspace = checked(Workspace::reserve(head_loss_bytes(head, kTokens, kTokens), device_));
  Tensor normed = checked(Tensor::allocate(DType::f32, hidden_.shape(), device_));
  Tensor logits = checked(Tensor::allocate(DType::f32, {kTokens, kVocabulary}, device_));
  head.norm.forward(hidden_, normed);
  head.head.multiply(normed, false, logits, workspace);
  for (int64_t i = 0; i < logits.numel(); ++i)
    logits.mutable_data<float>()[i] += float(i / kVocabulary) * 0.125f;
  teacher_logits_ = logits;
  const Outcome outcome = run(LossConfig{}, 8);
  EXPECT_NEAR(outcome.sums.divergence, 0.0, 1e-6);
  for (const float value : test::values_of(outcome.dhidden)) EXPECT_NEAR(value, 0.0f, 1e-6f);
}

TEST_P(HeadLossTest, ATiedHeadAddsToTheEmbedding) {
  const Outcome outcome = run(LossConfig{}, 16);
  const Tensor expected = checked(converted(named("lm_head.weight").gradient, DType::f32));
  std::string config = test::kTinyLlama;
  config.replace(config.find("\"tie_word_embeddings\": false"), 28, "\"tie_word_embeddings\": true ");
  const auto untied = test::tiny_model(test::kTinyLlama);
  const auto tied = test::tiny_model(config);
  tied->add("model.embed_tokens.weight", untied->dense("lm_head.weight"));
  student_ = checked(TrainingModel::open(tied, device_, {}));
  const Outcome shared = run(LossConfig{}, 16);
  EXPECT_TRUE(test::same_bytes(shared.dhidden, outcome.dhidden));
  EXPECT_TRUE(test::same_bytes(named("model.embed_tokens.weight").gradient, expected));
}

TEST_P(HeadLossTest, WithoutAGradientNothingIsAddedTo) {
  const Outcome outcome = run(LossConfig{}, 8);
  student_->clear_gradients();
  HeadParts head = head_of(*student_);
  Workspace workspace = checked(Workspace::reserve(head_loss_bytes(head, 8, hidden_.size(0)), device_));
  test::FixedTeacher teacher(teacher_logits_);
  Tensor none;
  const LossConfig config;
  const LossSums sums = checked(run_head_loss(head, {.config = config, .teacher = &teacher, .chunk_rows = 8},
                                              hidden_, targets_, none, workspace));
  EXPECT_EQ(sums.divergence, outcome.sums.divergence);
  student_->finish_gradients();
  for (const float value : test::values_of(named("lm_head.weight").gradient)) ASSERT_EQ(value, 0.0f);
}

TEST_P(HeadLossTest, TargetsThatNobodyKnowsAreRefused) {
  targets_.mutable_data<int32_t>()[3] = kVocabulary;
  HeadParts head = head_of(*student_);
  Workspace workspace = checked(Workspace::reserve(head_loss_bytes(head, 8, hidden_.size(0)), device_));
  Tensor none;
  const LossConfig config = LossConfig::defaults(LossKind::ce, true);
  const auto result =
      run_head_loss(head, {.config = config, .chunk_rows = 8}, hidden_, targets_, none, workspace);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().exit, Exit::malformed);
  EXPECT_EQ(result.error().where, "token 3");
}

TEST(LossChunkTest, StaysBelowAFifthAndTheBudget) {
  for (const int64_t tokens : {128, 1024, 8192})
    for (const int64_t vocabulary : {256, 32000, 128256}) {
      const int64_t rows = loss_chunk_rows(tokens, 2 * vocabulary, kLossBytes);
      const double unfused = double(tokens) * double(vocabulary) * 12.0;
      const double ours = double(rows) * double(2 * vocabulary) * 4.0;
      EXPECT_LE(ours, unfused / 5.0) << tokens << " " << vocabulary;
      EXPECT_TRUE(rows == 32 || ours <= double(kLossBytes)) << tokens << " " << vocabulary;
      EXPECT_EQ(rows % 32, 0);
    }
  EXPECT_EQ(loss_chunk_rows(7, 1000, kLossBytes), 7);
  EXPECT_EQ(loss_chunk_rows(100, 1 << 30, kLossBytes), 32);
}

}  // namespace
}  // namespace pare
