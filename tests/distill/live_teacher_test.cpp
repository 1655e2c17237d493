#include "distill/teacher.h"

#include "tests/distill/trainer_support.h"
#include "tests/support/compare.h"

namespace pare {
namespace {

using test::checked;

constexpr Batch kBatch{.sequences = 2, .tokens_per_sequence = 9, .first_position = 0};

class LiveTeacherTest : public test::TrainingTest {
 protected:
  void SetUp() override {
    TrainingTest::SetUp();
    if (IsSkipped()) return;
    ids_ = checked(Tensor::allocate(DType::i32, {kBatch.tokens()}, device_));
    for (int64_t i = 0; i < ids_.numel(); ++i) ids_.mutable_data<int32_t>()[i] = int32_t((i * 11 + 3) % 40);
  }
  std::unique_ptr<Teacher> started(std::shared_ptr<const WeightSource> source, bool one_block,
                                   const TeacherNeeds& needs) {
    auto teacher = live_teacher(checked(Model::open(std::move(source), device_)), one_block);
    checked(teacher->check(LossConfig{}, needs));
    checked(teacher->reserve(kBatch, 5, needs));
    checked(teacher->start({.ids = ids_, .batch = kBatch, .windows = {}}));
    return teacher;
  }
  Tensor ids_;
};
PARE_TRAINING_SUITE(LiveTeacherTest);

// What a teacher says is what a student with the same weights computes.
TEST_P(LiveTeacherTest, SaysWhatAStudentOfTheSameWeightsComputes) {
  for (const char* config : {test::kTinyLlama, test::kTinyGpt2, test::kTinyMixtral})
    for (const bool one_block : {false, true}) {
      const auto student = checked(TrainingModel::open(test::tiny_model(config), device_, {}));
      checked(student->reserve(kBatch, true));
      checked(student->forward(ids_, kBatch));
      const int blocks = int(student->config().block_count());
      const auto teacher = started(test::tiny_model(config), one_block,
                                   {.hidden = {0, 1, blocks}, .attention = {0, blocks - 1}});
      for (const int index : {0, 1, blocks})
        EXPECT_LT(test::relative_error(teacher->hidden(index), student->hidden(index)), 2e-6)
            << config << index;
      for (const int block : {0, blocks - 1}) {
        AttentionParts parts;
        checked(student->attention_parts(block, parts));
        const AttentionParts& theirs = teacher->attention(block);
        for (const auto& [own, other] :
             {std::pair(&parts.q, &theirs.q), std::pair(&parts.k, &theirs.k), std::pair(&parts.v, &theirs.v)})
          for (int64_t row = 0; row < own->size(0); ++row)
            for (int64_t c = 0; c < own->size(1); ++c)
              EXPECT_NEAR(own->data<float>()[row * own->row_stride() + c],
                          other->data<float>()[row * other->row_stride() + c], 1e-5f);
      }
      const HeadParts head = head_of(*student);
      Tensor normed = checked(Tensor::allocate(DType::f32, student->output().shape(), device_));
      Tensor logits = checked(Tensor::allocate(DType::f32, {kBatch.tokens(), 40}, device_));
      Workspace workspace = checked(Workspace::reserve(head.head.workspace_bytes(kBatch.tokens()), device_));
      head.norm.forward(student->output(), normed);
      head.head.multiply(normed, false, logits, workspace);
      for (int64_t begin = 0; begin < kBatch.tokens(); begin += 5) {
        const int64_t end = std::min<int64_t>(begin + 5, kBatch.tokens());
        const TeacherRows rows = checked(teacher->rows(begin, end));
        EXPECT_FALSE(rows.top_ids.defined());
        EXPECT_LT(test::relative_error(rows.logits, logits.rows(begin, end)), 1e-5);
      }
    }
}

TEST_P(LiveTeacherTest, ATeacherOfCodesIsCloseToItsFloats) {
  const auto plain = test::tiny_model(test::kTinyLlama), codes = test::tiny_model(test::kTinyLlama);
  for (const TensorSpec& spec : checked(describe_model(*plain)).tensors)
    if (spec.is_linear) codes->add(spec.name, test::int8_of(plain->dense(spec.name)), false);
  const auto a = started(plain, false, {.hidden = {3}, .attention = {2}});
  const auto b = started(codes, true, {.hidden = {3}, .attention = {2}});
  EXPECT_LT(test::relative_error(b->hidden(3), a->hidden(3)), 0.05);
  EXPECT_GT(test::relative_error(b->hidden(3), a->hidden(3)), 0.0);
  EXPECT_LT(test::relative_error(b->attention(2).q, a->attention(2).q), 0.05);
  EXPECT_LT(test::relative_error(checked(b->rows(0, 5)).logits, checked(a->rows(0, 5)).logits), 0.1);
}

}  // namespace
}  // namespace pare
