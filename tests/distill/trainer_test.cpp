#include "distill/trainer.h"

#include <cmath>
#include <limits>

#include "engine/core/parallel.h"
#include "tests/distill/trainer_support.h"
#include "tests/support/shared_data.h"

namespace pare {
namespace {

using test::checked;
using test::expect_same_weights;
using test::small_options;
using test::start_run;

class TrainerTest : public test::TrainingTest {
 protected:
  void TearDown() override { set_thread_count(0); }
};
PARE_TRAINING_SUITE(TrainerTest);

TEST_P(TrainerTest, TheLossFalls) {
  for (const char* name : {"ce", "kl", "ce+kl", "reverse-kl", "jsd", "tvd"}) {
    TrainerOptions options = small_options(*loss_kind_from_name(name));
    options.batch = 30;  // the whole data, so that steps can be compared
    options.micro_batch = 10;
    const auto run = start_run(device_, options);
    const auto reports = run->take(6);
    EXPECT_LT(reports.back().loss, 0.99 * reports.front().loss) << name;
    for (size_t i = 0; i < reports.size(); ++i) {
      EXPECT_EQ(reports[i].step, int64_t(i));
      EXPECT_EQ(reports[i].lr, options.schedule.at(int64_t(i)));
      EXPECT_EQ(reports[i].input_tokens, 30 * 12);
      EXPECT_FALSE(reports[i].skipped);
      EXPECT_NEAR(
          reports[i].loss,
          options.loss.alpha * reports[i].cross_entropy + (1.0 - options.loss.alpha) * reports[i].divergence,
          1e-12);
    }
  }
}

// Mean of means would be wrong: the micro-batches have unequal numbers of targets.
TEST_P(TrainerTest, OneTimesEightEqualsEightTimesOne) {
  TrainerOptions options = small_options();
  options.micro_batch = 8;
  const auto whole = start_run(device_, options);
  options.micro_batch = 1;
  const auto single = start_run(device_, options);
  options.micro_batch = 3;  // the last micro-batch of a step is shorter
  const auto uneven = start_run(device_, options);
  for (int step = 0; step < 5; ++step) {
    const StepReport a = checked(whole->trainer->step()), b = checked(single->trainer->step());
    const StepReport c = checked(uneven->trainer->step());
    EXPECT_EQ(a.tokens, b.tokens);
    EXPECT_LT(a.tokens, a.input_tokens);
    EXPECT_NEAR(a.loss, b.loss, 1e-5 * a.loss);
    EXPECT_NEAR(a.loss, c.loss, 1e-5 * a.loss);
    EXPECT_NEAR(a.gradient_norm, b.gradient_norm, 1e-4 * a.gradient_norm);
  }
  EXPECT_LT(weight_difference(*whole, *single), 2e-4);
  EXPECT_LT(weight_difference(*whole, *uneven), 2e-4);
}

TEST_P(TrainerTest, ThreadsAndRecomputationChangeNothing) {
  TrainerOptions options = small_options();
  options.intermediate = {.hidden = HiddenLossKind::cosine, .attention = true};
  set_thread_count(1);
  const auto one = start_run(device_, options);
  one->take(4);
  set_thread_count(2);
  const auto two = start_run(device_, options);
  two->take(4);
  expect_same_weights(*one, *two);
  options.keeps_blocks = false;
  const auto again = start_run(device_, options);
  again->take(4);
  expect_same_weights(*one, *again);
  const auto streamed = start_run(device_, options, {.one_block_at_a_time = true});
  streamed->take(4);
  expect_same_weights(*one, *streamed);
}

TEST_P(TrainerTest, ARestoredRunGivesTheBytesOfOneThatWasNot) {
  TrainerOptions options = small_options();
  options.intermediate = {.hidden = HiddenLossKind::mse, .attention = true};
  const auto straight = start_run(device_, options);
  const auto expected = straight->take(6);

  const std::string folder = test::temporary_folder() + "/job";
  Json identity = Json::object();
  identity["command"] = "distill";
  {
    const auto first = start_run(device_, options);
    first->take(3);
    TrainerState state;
    checked(first->trainer->save(state));
    JobFolder job = checked(JobFolder::open(folder, identity, JobMode::fresh));
    const StoredTrainerState stored = checked(put_state(job, state));
    checked(job.commit(stored.description, {stored.object}));
  }
  JobFolder job = checked(JobFolder::open(folder, identity, JobMode::resume));
  const auto second = start_run(device_, options);
  checked(second->trainer->restore(checked(get_state(job, job.position()))));
  EXPECT_EQ(second->trainer->step_number(), 3);
  const auto rest = second->take(3);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(rest[i].loss, expected[i + 3].loss);
    EXPECT_EQ(rest[i].gradient_norm, expected[i + 3].gradient_norm);
    EXPECT_EQ(rest[i].step, expected[i + 3].step);
  }
  expect_same_weights(*straight, *second);
  TrainerState a, b;
  checked(straight->trainer->save(a));
  checked(second->trainer->save(b));
  EXPECT_EQ(a.json.dump(), b.json.dump());
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (size_t i = 0; i < a.tensors.size(); ++i)
    EXPECT_TRUE(test::same_bytes(a.tensors[i].tensor, b.tensors[i].tensor));
}

TEST_P(TrainerTest, TwoRanksEqualOneWithAccumulationTwo) {
  TrainerOptions options = small_options();
  const auto one = start_run(device_, options);
  const auto reports = one->take(5);
  for (const bool shards : {false, true}) {
    options.optimizer.shards_states = shards;
    std::vector<std::unique_ptr<test::Run>> runs(2);
    std::vector<StepReport> last(2);
    test::ThreadGroup(2).run([&](GradientExchange& exchange) {
      auto& run = runs[size_t(exchange.rank())];
      run = start_run(device_, options, {.exchange = &exchange});
      last[size_t(exchange.rank())] = run->take(5).back();
    });
    expect_same_weights(*runs[0], *runs[1]);
    EXPECT_LT(weight_difference(*runs[0], *one), 2e-4);
    for (const StepReport& report : last) {
      EXPECT_NEAR(report.loss, reports.back().loss, 1e-5 * report.loss);
      EXPECT_EQ(report.tokens, reports.back().tokens);
      EXPECT_EQ(report.input_tokens, reports.back().input_tokens);
    }
  }
}

// A group of two whose other member adds nothing, or once something infinite.
class SpoilingExchange : public GradientExchange {
 public:
  int rank() const override { return 0; }
  int size() const override { return 2; }
  Status sum(std::span<float> values) override {
    if (spoils) values[0] = std::numeric_limits<float>::infinity();
    return {};
  }
  Status sum(std::span<double>) override { return {}; }
  Status broadcast(std::span<float>, int) override { return {}; }
  bool spoils = false;
};

TEST_P(TrainerTest, AnOverflowSkipsExactlyOneStepAndLeavesWeights) {
  TrainerOptions options = small_options();
  options.scales_loss = true;
  SpoilingExchange exchange;
  const auto run = start_run(device_, options, {.exchange = &exchange});
  run->take(2);
  TrainerState before, after;
  checked(run->trainer->save(before));
  for (NamedTensor& entry : before.tensors) entry.tensor = checked(converted(entry.tensor, DType::f32));
  exchange.spoils = true;
  const StepReport skipped = checked(run->trainer->step());
  exchange.spoils = false;
  EXPECT_TRUE(skipped.skipped);
  EXPECT_EQ(skipped.step, 2);
  EXPECT_EQ(skipped.loss_scale, 65536.0);
  EXPECT_EQ(run->trainer->step_number(), 2);
  EXPECT_EQ(run->trainer->batches_drawn(), 3);
  checked(run->trainer->save(after));
  for (size_t i = 0; i < before.tensors.size(); ++i)
    EXPECT_TRUE(test::same_bytes(before.tensors[i].tensor, after.tensors[i].tensor))
        << before.tensors[i].name;
  const StepReport next = checked(run->trainer->step());
  EXPECT_FALSE(next.skipped);
  EXPECT_EQ(next.step, 2);  // the schedule did not go on
  EXPECT_EQ(next.lr, skipped.lr);
  EXPECT_EQ(next.loss_scale, 32768.0);
  EXPECT_EQ(run->trainer->bad_steps(), 0);
}

// A power of two in front of the loss changes no bit of what comes out.
TEST_P(TrainerTest, ScalingTheLossChangesNothingInF32) {
  TrainerOptions options = small_options();
  const auto plain = start_run(device_, options);
  const auto expected = plain->take(3);
  options.scales_loss = true;
  const auto scaled = start_run(device_, options);
  const auto reports = scaled->take(3);
  for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(reports[i].gradient_norm, expected[i].gradient_norm, 1e-6);
  EXPECT_LT(weight_difference(*plain, *scaled), 1e-6);
}

// A teacher whose logits are NaN in batch `bad`.
class FailingTeacher : public Teacher {
 public:
  FailingTeacher(std::unique_ptr<Teacher> inner, int bad) : inner_(std::move(inner)), bad_(bad) {}
  int64_t vocabulary_size() const override { return inner_->vocabulary_size(); }
  int64_t hidden_size() const override { return inner_->hidden_size(); }
  Status check(const LossConfig& loss, const TeacherNeeds& needs) const override {
    return inner_->check(loss, needs);
  }
  Status reserve(const Batch& largest, int64_t rows, const TeacherNeeds& needs) override {
    return inner_->reserve(largest, rows, needs);
  }
  uint64_t held_bytes() const override { return inner_->held_bytes(); }
  Status start(const TeacherBatch& batch) override {
    ++batches_;
    return inner_->start(batch);
  }
  Result<TeacherRows> rows(int64_t begin, int64_t end) override {
    auto rows = inner_->rows(begin, end);
    if (batches_ - 1 == bad_) rows->logits.mutable_data<float>()[3] = std::numeric_limits<float>::quiet_NaN();
    return rows;
  }
  const Tensor& hidden(int index) const override { return inner_->hidden(index); }
  const AttentionParts& attention(int block) const override { return inner_->attention(block); }

 private:
  std::unique_ptr<Teacher> inner_;
  int bad_, batches_ = 0;
};

TEST_P(TrainerTest, ALossThatIsNoNumberEndsTheRunWithTheWeightsBefore) {
  for (const int64_t allowed : {0, 1}) {
    TrainerOptions options = small_options();
    options.skip_bad_steps = allowed;
    auto inner =
        live_teacher(checked(Model::open(test::other_model(test::kTinyLlama, 0.2f), device_)), false);
    const auto run =
        start_run(device_, options, {.other_teacher = std::make_unique<FailingTeacher>(std::move(inner), 5)});
    run->take(2);  // of two micro-batches each
    std::vector<Tensor> before;
    for (const auto& parameter : run->student->parameters())
      before.push_back(checked(converted(parameter->value, DType::f32)));
    const auto result = run->trainer->step();
    if (allowed == 0) {
      ASSERT_FALSE(result);
      EXPECT_EQ(result.error().exit, Exit::numeric);
      EXPECT_EQ(result.error().rule, "NU11");
      EXPECT_EQ(result.error().where, "step 2");
    } else {
      ASSERT_TRUE(result);
      EXPECT_TRUE(result->skipped);
      EXPECT_EQ(run->trainer->bad_steps(), 1);
    }
    for (size_t i = 0; i < before.size(); ++i)
      EXPECT_TRUE(test::same_bytes(run->student->parameters()[i]->value, before[i]));
    if (allowed == 1) {
      EXPECT_FALSE(run->take(1).front().skipped);
    }
  }
}

TEST_P(TrainerTest, MasksThatGrowDuringTraining) {
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  TrainerOptions options = small_options();
  options.update_masks = [&](int64_t step, const ParameterList& parameters) -> Result<bool> {
    if (step != 1 && step != 3) return false;
    for (const auto& parameter : parameters) {
      if (parameter->name != name) continue;
      PARE_TRY(Mask mask, Mask::all_kept(40, 24));
      for (int64_t row = 0; row < 40; ++row)
        for (int64_t column = 0; column < 24; ++column)
          mask.set(row, column, (row + column) % (step == 1 ? 4 : 2) != 0);
      parameter->mask = std::make_shared<const Mask>(std::move(mask));
    }
    return true;
  };
  const auto straight = start_run(device_, options);
  straight->take(2);
  const Parameter& pruned = straight->named(name);
  const auto zeros = [&] {
    int64_t count = 0;
    for (const float value : test::values_of(pruned.value)) count += int64_t(value == 0.0f);
    return count;
  };
  EXPECT_EQ(zeros(), 240);
  TrainerState state;
  checked(straight->trainer->save(state));
  for (NamedTensor& entry : state.tensors)
    if (entry.tensor.dtype() == DType::f32) entry.tensor = checked(converted(entry.tensor, DType::f32));
  straight->take(1);
  EXPECT_EQ(zeros(), 240);
  straight->take(2);
  EXPECT_EQ(zeros(), 480);
  const auto resumed = start_run(device_, options);
  checked(resumed->trainer->restore(state));
  resumed->take(3);
  expect_same_weights(*straight, *resumed);
}

TEST_P(TrainerTest, ValidationChangesNothing) {
  const auto plain = start_run(device_, small_options());
  plain->take(3);
  const auto run = start_run(device_, small_options());
  run->take(1);
  const auto first = checked(run->trainer->validate(run->data, 0, 30));
  run->take(2);
  expect_same_weights(*plain, *run);
  EXPECT_EQ(first.tokens, run->data.counted_targets(0, 30));
  EXPECT_NEAR(first.cross_entropy, std::log(40.0), 0.5);  // a random model
  EXPECT_EQ(first.loss, first.cross_entropy);
  EXPECT_EQ(first.divergence, 0.0);

  // With its teacher: what a step over the same data says before it changes anything.
  TrainerOptions whole = small_options();
  whole.batch = 30;
  const auto other = start_run(device_, whole);
  const auto wanted = checked(other->trainer->validate(other->data, 0, 30, /*asks_teacher=*/true));
  const StepReport report = other->take(1).front();
  EXPECT_EQ(wanted.tokens, report.tokens);
  EXPECT_NEAR(wanted.loss, report.loss, 1e-9);
  EXPECT_NEAR(wanted.cross_entropy, report.cross_entropy, 1e-9);
  EXPECT_NEAR(wanted.divergence, report.divergence, 1e-9);
}

TEST_P(TrainerTest, StudentsOfOtherSizesAndFamilies) {
  constexpr const char* kSmall = R"({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 40, "hidden_size": 16,
    "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    "max_position_embeddings": 64, "tie_word_embeddings": true})";
  for (const char* student : {kSmall, test::kTinyGpt2, test::kTinyMixtral}) {
    TrainerOptions options = small_options();
    options.batch = 30;
    options.intermediate = {.hidden = HiddenLossKind::cosine};
    const auto run = start_run(device_, options, {.student = student});
    const auto reports = run->take(8);
    EXPECT_LT(reports.back().loss, reports.front().loss) << student;
    EXPECT_GT(reports.front().intermediate, 0.0);
  }
}

TEST_P(TrainerTest, ContradictionsAreRefused) {
  const auto refusal = [&](const TrainerOptions& options, GradientExchange& exchange) {
    auto student = checked(TrainingModel::open(test::tiny_model(test::kTinyLlama), device_, {}));
    TrainingData data = test::small_data();
    const auto trainer = Trainer::make(*student, nullptr, nullptr, data, options, exchange);
    return trainer ? Error{} : trainer.error();
  };
  const auto alone = single_process();
  SpoilingExchange two;
  TrainerOptions odd = small_options(LossKind::ce);
  odd.batch = 3;
  EXPECT_EQ(refusal(odd, two).where, "batch");
  TrainerOptions empty = small_options(LossKind::ce);
  empty.batch = 0;
  EXPECT_EQ(refusal(empty, *alone).exit, Exit::usage);
  TrainerOptions scaled = small_options(LossKind::ce);
  scaled.privacy = PrivateTraining{};
  scaled.scales_loss = true;
  EXPECT_EQ(refusal(scaled, *alone).where, "privacy");
  scaled.scales_loss = false;
  scaled.privacy->noise = 0.0;
  EXPECT_EQ(refusal(scaled, *alone).where, "privacy noise");
}

}  // namespace
}  // namespace pare
