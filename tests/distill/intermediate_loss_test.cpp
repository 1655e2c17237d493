#include "distill/intermediate_loss.h"

#include <cmath>

#include "tests/distill/trainer_support.h"

namespace pare {
namespace {

using test::checked;
using test::floats;
using test::normals;

constexpr int64_t kTokens = 12;

// The sums of both losses as numbers.
double hidden_loss(HiddenLossKind kind, const Tensor& h, const Tensor& target, Parameter* projection,
                   const Tensor& target_ids, double scale, Tensor& dh, Workspace& workspace) {
  Tensor sum = checked(Tensor::allocate(DType::f64, {1}, h.device()));
  pare::hidden_loss(kind, h, target, projection, target_ids, scale, dh, sum, workspace);
  return sum.data<double>()[0];
}
double relation_loss(const Tensor& x, const Tensor& target, const Batch& batch, int64_t relation_heads,
                     bool is_causal, const Tensor& target_ids, double scale, Tensor& dx,
                     Workspace& workspace) {
  Tensor sum = checked(Tensor::allocate(DType::f64, {1}, x.device()));
  checked(pare::relation_loss(x, target, batch, relation_heads, is_causal, target_ids, scale, dx, sum,
                              workspace));
  return sum.data<double>()[0];
}

class IntermediateLossTest : public test::TrainingTest {
 protected:
  void SetUp() override {
    TrainingTest::SetUp();
    if (IsSkipped()) return;
    ids_ = checked(Tensor::allocate(DType::i32, {kTokens}, device_));
    for (const int64_t masked : {3, 11}) ids_.mutable_data<int32_t>()[masked] = -1;
    workspace_ = checked(Workspace::reserve(size_t(4) << 20, device_));
  }
  Tensor copy(const Tensor& tensor) {
    Tensor out = checked(Tensor::allocate(DType::f32, tensor.shape(), device_));
    std::memcpy(out.mutable_raw(), tensor.raw(), tensor.size_bytes());
    return out;
  }
  Tensor ids_;
  Workspace workspace_;
};
PARE_TRAINING_SUITE(IntermediateLossTest);

// Central differences of `value` by every element of x, against `gradient` / scale.
template <typename Value>
void expect_gradient(Tensor& x, const Tensor& gradient, double scale, Value value) {
  constexpr float kStep = 0.01f;
  double largest = 0.0;
  for (const float g : test::values_of(gradient)) largest = std::max(largest, std::fabs(double(g)) / scale);
  for (int64_t i = 0; i < x.numel(); ++i) {
    float& element = x.mutable_data<float>()[i];
    const float before = element;
    element = before + kStep;
    const double above = value();
    element = before - kStep;
    const double below = value();
    element = before;
    EXPECT_NEAR(gradient.data<float>()[i] / scale, (above - below) / (2.0 * double(kStep)),
                2e-3 * largest + 1e-4)
        << "element " << i;
  }
}

TEST_P(IntermediateLossTest, HiddenStatesByFiniteDifferences) {
  for (const HiddenLossKind kind : {HiddenLossKind::mse, HiddenLossKind::cosine})
    for (const bool projects : {false, true}) {
      const int64_t teacher_size = projects ? 7 : 5;
      Tensor h = normals({kTokens, 5}, device_, 1);
      const Tensor target = normals({kTokens, teacher_size}, device_, 2);
      const auto projection =
          test::parameter("p", Parameter::Kind::adapter, normals({7, 5}, device_, 3, 0.5f));
      Parameter* used = projects ? projection.get() : nullptr;
      Tensor dh = checked(Tensor::allocate(DType::f32, h.shape(), device_)), none;
      const auto value = [&] { return hidden_loss(kind, h, target, used, ids_, 0.0, none, workspace_); };
      const double with_gradient = hidden_loss(kind, h, target, used, ids_, 0.5, dh, workspace_);
      EXPECT_NEAR(with_gradient, value(), 1e-9);
      expect_gradient(h, dh, 0.5, value);
      if (projects) expect_gradient(projection->value, projection->gradient, 0.5, value);
      // Added to, not overwritten.
      const Tensor once = copy(dh);
      hidden_loss(kind, h, target, used, ids_, 0.5, dh, workspace_);
      for (int64_t i = 0; i < dh.numel(); ++i)
        EXPECT_NEAR(dh.data<float>()[i], 2.0f * once.data<float>()[i], 1e-5f);
    }
}

// By hand: errors (1, -2) and (3, 0) over two channels; the second row is masked.
TEST_P(IntermediateLossTest, HiddenValuesByHand) {
  const Tensor h = floats({2, 2}, {1.0f, 0.0f, 3.0f, 4.0f}, device_),
               t = floats({2, 2}, {0.0f, 2.0f, 0.0f, 4.0f}, device_);
  Tensor ids = checked(Tensor::allocate(DType::i32, {2}, device_)), none;
  EXPECT_NEAR(hidden_loss(HiddenLossKind::mse, h, t, nullptr, ids, 1.0, none, workspace_),
              5.0 / 2.0 + 9.0 / 2.0, 1e-12);
  EXPECT_NEAR(hidden_loss(HiddenLossKind::cosine, h, t, nullptr, ids, 1.0, none, workspace_),
              1.0 + (1.0 - 0.8), 1e-12);
  ids.mutable_data<int32_t>()[1] = -1;
  EXPECT_NEAR(hidden_loss(HiddenLossKind::mse, h, t, nullptr, ids, 1.0, none, workspace_), 5.0 / 2.0, 1e-12);
}

TEST_P(IntermediateLossTest, RelationsByFiniteDifferences) {
  const Batch batch{.sequences = 2, .tokens_per_sequence = 6};
  for (const bool is_causal : {true, false}) {
    Tensor x = normals({kTokens, 8}, device_, 1);
    const Tensor target = normals({kTokens, 12}, device_, 2);
    Tensor dx = checked(Tensor::allocate(DType::f32, x.shape(), device_)), none;
    const auto value = [&] {
      return relation_loss(x, target, batch, 4, is_causal, ids_, 0.0, none, workspace_);
    };
    EXPECT_NEAR(relation_loss(x, target, batch, 4, is_causal, ids_, 0.5, dx, workspace_), value(), 1e-9);
    EXPECT_GT(value(), 0.0);
    expect_gradient(x, dx, 0.5, value);
  }
}

// Against softmax and KL written out in double.
TEST_P(IntermediateLossTest, RelationValuesWrittenOut) {
  const Batch batch{.sequences = 1, .tokens_per_sequence = kTokens};
  const Tensor x = normals({kTokens, 6}, device_, 1), target = normals({kTokens, 10}, device_, 2);
  const auto row_of = [](const Tensor& tensor, int64_t width, int64_t head, int64_t row) {
    std::vector<double> p;
    double sum = 0.0;
    for (int64_t j = 0; j <= row; ++j) {
      double dot = 0.0;
      for (int64_t c = head * width; c < (head + 1) * width; ++c)
        dot += double(tensor.data<float>()[row * tensor.size(1) + c]) *
               double(tensor.data<float>()[j * tensor.size(1) + c]);
      p.push_back(std::exp(dot / std::sqrt(double(width))));
      sum += p.back();
    }
    for (double& value : p) value /= sum;
    return p;
  };
  double expected = 0.0;
  for (int64_t row = 0; row < kTokens; ++row)
    for (int64_t head = 0; head < 2 && ids_.data<int32_t>()[row] >= 0; ++head) {
      const auto s = row_of(x, 3, head, row), t = row_of(target, 5, head, row);
      for (size_t j = 0; j < s.size(); ++j) expected += 0.5 * t[j] * std::log(t[j] / s[j]);
    }
  Tensor none;
  EXPECT_NEAR(relation_loss(x, target, batch, 2, true, ids_, 1.0, none, workspace_), expected,
              1e-5 * expected);
  EXPECT_NEAR(relation_loss(x, x, batch, 2, true, ids_, 1.0, none, workspace_), 0.0, 1e-9);
}

TEST_P(IntermediateLossTest, RowsWithGaps) {
  const Batch batch{.sequences = 2, .tokens_per_sequence = 6};
  const Tensor wide = normals({kTokens, 20}, device_, 1), target = normals({kTokens, 4}, device_, 2);
  const Tensor view = wide.columns(5, 9);
  Tensor dense = checked(Tensor::allocate(DType::f32, {kTokens, 4}, device_));
  for (int64_t row = 0; row < kTokens; ++row)
    std::memcpy(dense.mutable_data<float>() + row * 4, wide.data<float>() + row * 20 + 5, 16);
  Tensor dwide = checked(Tensor::allocate(DType::f32, wide.shape(), device_)), dview = dwide.columns(5, 9);
  Tensor ddense = checked(Tensor::allocate(DType::f32, dense.shape(), device_));
  EXPECT_EQ(relation_loss(view, target, batch, 2, true, ids_, 1.0, dview, workspace_),
            relation_loss(dense, target, batch, 2, true, ids_, 1.0, ddense, workspace_));
  for (int64_t row = 0; row < kTokens; ++row)
    for (int64_t c = 0; c < 20; ++c)
      EXPECT_EQ(dwide.data<float>()[row * 20 + c],
                c < 5 || c >= 9 ? 0.0f : ddense.data<float>()[row * 4 + c - 5]);
}

// Through the whole model: the weights' gradients of logits, hidden states and attention together, by
// differences of what a step reports. The weight of the sum is fixed, so that it does not follow the loss.
TEST_P(IntermediateLossTest, EntersTheBackwardPassOfAModel) {
  TrainerOptions options = test::small_options();
  options.batch = options.micro_batch = 2;
  options.intermediate = {.hidden = HiddenLossKind::mse, .attention = true, .weight = 0.7};
  options.optimizer.clip_norm = 0.0;
  options.optimizer.decay = 0.0;
  options.optimizer.kind = OptimizerKind::sgd;
  options.optimizer.momentum = 0.0;
  options.schedule = {.shape = LearningRateShape::constant, .peak = 1e-12, .steps = 100};
  constexpr const char* kSmall = R"({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 40, "hidden_size": 16,
    "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    "max_position_embeddings": 64, "tie_word_embeddings": false})";
  const auto loss_with = [&](const char* name, int64_t element, float change, double* gradient) {
    const auto run = test::start_run(device_, options, {.student = kSmall});
    // Variances and projections do not depend on the student.
    run->named(name).value.mutable_data<float>()[element] += change;
    checked(run->student->refresh());
    const StepReport report = checked(run->trainer->step());
    if (gradient != nullptr) *gradient = double(run->named(name).gradient.data<float>()[element]);
    return report.loss;
  };
  for (const auto& [name, element] : {std::pair("model.layers.1.self_attn.q_proj.weight", 37),
                                      std::pair("model.layers.1.self_attn.v_proj.weight", 5),
                                      std::pair("model.layers.0.mlp.down_proj.weight", 100),
                                      std::pair("model.layers.0.input_layernorm.weight", 3),
                                      std::pair("model.embed_tokens.weight", 9 * 16 + 2)}) {
    double gradient = 0.0;
    loss_with(name, element, 0.0f, &gradient);
    constexpr float kStep = 0.02f;
    const double slope =
        (loss_with(name, element, kStep, nullptr) - loss_with(name, element, -kStep, nullptr)) /
        (2.0 * double(kStep));
    EXPECT_NEAR(gradient, slope, 0.02 * std::fabs(slope) + 2e-4) << name;
  }
}

TEST_P(IntermediateLossTest, WeighsAsMuchAsTheLogits) {
  TrainerOptions options = test::small_options();
  options.batch = 30;  // the whole data in every step
  options.intermediate = {.hidden = HiddenLossKind::mse, .attention = true};
  options.schedule = {
      .shape = LearningRateShape::constant, .peak = 1e-5, .steps = 20};  // so that both hardly move
  const auto run = test::start_run(device_, options);
  const auto reports = run->take(4);
  const auto logits = [&](size_t i) { return reports[i].loss - reports[i].intermediate; };
  EXPECT_NEAR(reports[0].intermediate, logits(0), 1e-6 * logits(0));  // measured on the same data
  for (size_t i = 1; i < 4; ++i) EXPECT_NEAR(reports[i].intermediate, logits(i), 0.01 * logits(i)) << i;
}

TEST(LayerMapTest, SpreadsEvenlyOrFollowsTheSurvivors) {
  EXPECT_EQ(*map_layers(3, 3, {}), std::vector<int>({0, 1, 2}));
  EXPECT_EQ(*map_layers(3, 12, {}), std::vector<int>({3, 7, 11}));
  EXPECT_EQ(*map_layers(4, 6, {}), std::vector<int>({1, 2, 4, 5}));  // 1.5, 3, 4.5 and 6, halves up
  EXPECT_EQ(*map_layers(2, 1, {}), std::vector<int>({0, 0}));
  EXPECT_EQ(*map_layers(2, 5, {1, 4}), std::vector<int>({1, 4}));
  for (const std::vector<int>& bad : {std::vector<int>{1}, {1, 1}, {4, 1}, {-1, 2}, {0, 5}}) {
    const auto map = map_layers(2, 5, bad);
    ASSERT_FALSE(map);
    EXPECT_EQ(map.error().exit, Exit::usage);
  }
}

TEST(IntermediateConfigTest, RelationHeadsMustDivideAllWidths) {
  test::use(test::training_arithmetics().front());
  const auto student =
      checked(TrainingModel::open(test::tiny_model(test::kTinyLlama), Device::reference(), {}));
  const auto refusal = [&](const IntermediateConfig& config) {
    const auto loss = IntermediateLoss::make(config, *student, student->config(), 0);
    return loss ? Error{} : loss.error();
  };
  EXPECT_EQ(refusal({.attention = true, .relation_heads = 8}).exit,
            Exit::internal);  // none: queries 32, keys 16
  EXPECT_EQ(refusal({.attention = true, .relation_heads = 3}).exit, Exit::usage);
  EXPECT_EQ(refusal({.attention = true, .weight = -1.0}).exit, Exit::usage);
  EXPECT_EQ(refusal({.hidden = HiddenLossKind::mse, .surviving_layers = {0}}).exit, Exit::usage);
  EXPECT_EQ(*hidden_loss_kind_from_name("cosine"), HiddenLossKind::cosine);
  EXPECT_FALSE(hidden_loss_kind_from_name("l1"));
}

}  // namespace
}  // namespace pare
