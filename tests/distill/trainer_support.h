// tests/distill/trainer_support.h: a tiny student, its teacher, tokens, and runs of a trainer over them.
#pragma once

#include <optional>

#include "distill/trainer.h"
#include "distill/training_data.h"
#include "tests/distill/training_support.h"
#include "tests/support/tiny_model.h"

namespace pare::test {

// Random ids below 40; a document begins every `document` tokens.
inline TrainingStream random_stream(int64_t count, uint32_t seed, int64_t document = 17) {
  const Random random(seed, RandomPurpose::test_data, 5);
  auto stream = std::make_shared<TokenStream>();
  for (int64_t i = 0; i < count; ++i) stream->ids.push_back(int32_t(random.below(40, uint64_t(i))));
  for (int64_t i = 0; i < count; i += document) stream->document_starts.push_back(i);
  stream->token_hash = token_hash(stream->ids);
  return {.tokens = std::move(stream), .name = "random"};
}

inline TrainingData small_data(int64_t context = 12, bool masks = true) {
  return checked(TrainingData::create({random_stream(12 * 30 + 1, 3)},
                                      {.context = context, .seed = 4, .mask_document_starts = masks}));
}

inline std::shared_ptr<MemorySource> other_model(const char* config, float shift) {
  auto source = tiny_model(config);
  std::vector<std::string> names;
  for (const StoredTensor& stored : source->tensors()) names.push_back(stored.name);
  for (const std::string& name : names) {
    Tensor copy = checked(converted(source->dense(name), DType::f32));
    for (int64_t i = 0; i < copy.numel(); ++i)
      copy.mutable_data<float>()[i] *= 1.0f + shift * float(i % 5 - 2);
    source->add(name, copy);
  }
  return source;
}

inline TrainerOptions small_options(LossKind kind = LossKind::ce_kl) {
  return {.loss = LossConfig::defaults(kind, true),
          .schedule =
              {.shape = LearningRateShape::cosine, .peak = 3e-3, .minimum = 1e-4, .warmup = 2, .steps = 20},
          .batch = 8,
          .micro_batch = 4};
}

// One rank: a student, a teacher and a trainer, all of its own.
struct Run {
  std::unique_ptr<GradientExchange> alone = single_process();
  std::unique_ptr<TrainingModel> student;
  std::unique_ptr<Teacher> teacher;
  ModelConfig teacher_config;
  TrainingData data = small_data();
  std::unique_ptr<Trainer> trainer;

  std::vector<StepReport> take(int64_t steps) {
    std::vector<StepReport> reports;
    for (int64_t i = 0; i < steps; ++i) reports.push_back(checked(trainer->step()));
    return reports;
  }
  const Parameter& named(std::string_view name) const {
    for (const auto& parameter : student->parameters())
      if (parameter->name == name) return *parameter;
    PARE_ASSERT(false, "no parameter {}", name);
    std::abort();
  }
};

struct RunOptions {
  const char* student = kTinyLlama;
  const char* teacher = kTinyLlama;
  TrainingForm form = TrainingForm();
  GradientExchange* exchange = nullptr;         // null: alone
  std::unique_ptr<Teacher> other_teacher = {};  // instead of the live one
  bool one_block_at_a_time = false;
};

inline std::unique_ptr<Run> start_run(Device device, const TrainerOptions& options, RunOptions how = {}) {
  auto run = std::make_unique<Run>();
  run->student = checked(TrainingModel::open(tiny_model(how.student), device, how.form));
  auto model = checked(Model::open(other_model(how.teacher, 0.2f), device));
  run->teacher_config = model->config();
  run->teacher = how.other_teacher ? std::move(how.other_teacher)
                                   : live_teacher(std::move(model), how.one_block_at_a_time);
  run->trainer = checked(Trainer::make(*run->student, run->teacher.get(), &run->teacher_config, run->data,
                                       options, how.exchange != nullptr ? *how.exchange : *run->alone));
  return run;
}

inline void expect_same_weights(const Run& a, const Run& b) {
  ASSERT_EQ(a.student->parameters().size(), b.student->parameters().size());
  for (size_t i = 0; i < a.student->parameters().size(); ++i)
    EXPECT_TRUE(same_bytes(a.student->parameters()[i]->value, b.student->parameters()[i]->value))
        << a.student->parameters()[i]->name;
}

// Largest difference of any weight, relative to the largest weight of its tensor.
inline double weight_difference(const Run& a, const Run& b) {
  double worst = 0.0;
  for (size_t i = 0; i < a.student->parameters().size(); ++i) {
    const Tensor& x = a.student->parameters()[i]->value;
    const Tensor& y = b.student->parameters()[i]->value;
    double difference = 0.0, largest = 1e-30;
    for (int64_t k = 0; k < x.numel(); ++k) {
      difference = std::max(difference, std::fabs(double(x.data<float>()[k]) - double(y.data<float>()[k])));
      largest = std::max(largest, std::fabs(double(y.data<float>()[k])));
    }
    worst = std::max(worst, difference / largest);
  }
  return worst;
}

}  // namespace pare::test
