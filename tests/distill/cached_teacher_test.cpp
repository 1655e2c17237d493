#include "distill/cached_teacher.h"

#include <gtest/gtest.h>

#include "tests/distill/trainer_support.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

std::unique_ptr<Teacher> live(Device device) {
  return live_teacher(checked(Model::open(other_model(kTinyLlama, 0.2f), device)), false);
}

TeacherCacheHeader header_for(const TrainingData& data, int64_t vocabulary, int64_t k) {
  TeacherCacheHeader header{.teacher_hash = "t",
                            .input_hash = data.input_hash(),
                            .vocabulary = vocabulary,
                            .context = data.context(),
                            .windows = data.all_windows(),
                            .k = k,
                            .part_windows = 7};
  EXPECT_TRUE(header.resolve());
  return header;
}

// Caches all windows of small_data(), `sequences` at a time.
std::string cached(Device device, int64_t k, int64_t sequences, int64_t chunk_rows) {
  const TrainingData data = small_data();
  const auto teacher = live(device);
  const std::string folder = memory_folder() + "/cache";
  TeacherCacheWriter writer = checked(
      TeacherCacheWriter::open(folder, header_for(data, teacher->vocabulary_size(), k), JobMode::fresh));
  int64_t done = 0;
  const Status made = cache_teacher(*teacher, device, data,
                                    {.sequences = sequences,
                                     .chunk_rows = chunk_rows,
                                     .commit_seconds = 0.0,
                                     .advance = [&](int64_t windows) { done += windows; }},
                                    writer);
  EXPECT_TRUE(made) << format_error(made.error());
  EXPECT_EQ(done, data.all_windows());
  EXPECT_TRUE(writer.finish());
  return folder;
}

std::shared_ptr<const TeacherCacheReader> reader_of(const std::string& folder, double temperature = 1.0) {
  return std::make_shared<const TeacherCacheReader>(
      checked(TeacherCacheReader::open(folder, {.temperature = temperature})));
}

std::string all_bytes(const std::string& folder) {
  std::string bytes;
  const auto names = list_directory(folder);
  EXPECT_TRUE(names);
  for (const std::string& name : *names)
    bytes += name + checked(read_text_file(folder + "/" + name, 1 << 24));
  return bytes;
}

class CachedTeacherTest : public TrainingTest {};
PARE_TRAINING_SUITE(CachedTeacherTest);

// With all ids known the cached teacher is the live one up to the rounding of its logits to f16.
TEST_P(CachedTeacherTest, TrainsLikeTheLiveTeacher) {
  const int64_t vocabulary = live(device_)->vocabulary_size();
  auto teacher = checked(cached_teacher(reader_of(cached(device_, vocabulary, 4, 20)), device_, vocabulary));
  TrainerOptions options = small_options(LossKind::kl);
  const auto expected = start_run(device_, options);
  const auto got = start_run(device_, options, {.other_teacher = std::move(teacher)});
  const auto expected_steps = expected->take(5), got_steps = got->take(5);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_GT(expected_steps[i].divergence, 1e-4);
    EXPECT_NEAR(got_steps[i].divergence, expected_steps[i].divergence, 2e-3 * expected_steps[i].divergence)
        << i;
    EXPECT_NEAR(got_steps[i].cross_entropy, expected_steps[i].cross_entropy, 1e-3) << i;
  }
}

// The tail as one outcome says less than all outcomes (data processing).
TEST_P(CachedTeacherTest, AFewIdsGiveALowerBoundOfTheDivergence) {
  const int64_t vocabulary = live(device_)->vocabulary_size();
  const auto expected = start_run(device_, small_options(LossKind::kl))->take(1);
  double last = 0.0;
  for (const int64_t k : {1, 4, 16}) {
    auto teacher = checked(cached_teacher(reader_of(cached(device_, k, 8, 512)), device_, vocabulary));
    const auto run = start_run(device_, small_options(LossKind::kl), {.other_teacher = std::move(teacher)});
    const double divergence = run->take(1)[0].divergence;
    EXPECT_GT(divergence, last) << k;
    EXPECT_LT(divergence, expected[0].divergence) << k;
    last = divergence;
  }
}

// Fails at one start(), as a process that is killed there.
class FailingTeacher : public Teacher {
 public:
  FailingTeacher(std::unique_ptr<Teacher> teacher, int starts)
      : teacher_(std::move(teacher)), starts_(starts) {}
  int64_t vocabulary_size() const override { return teacher_->vocabulary_size(); }
  int64_t hidden_size() const override { return 0; }
  Status check(const LossConfig& loss, const TeacherNeeds& needs) const override {
    return teacher_->check(loss, needs);
  }
  Status reserve(const Batch& largest, int64_t rows, const TeacherNeeds& needs) override {
    return teacher_->reserve(largest, rows, needs);
  }
  uint64_t held_bytes() const override { return 0; }
  Status start(const TeacherBatch& batch) override {
    if (starts_-- == 0) return Error{.exit = Exit::io, .path = "teacher", .what = "killed"};
    return teacher_->start(batch);
  }
  Result<TeacherRows> rows(int64_t begin, int64_t end) override { return teacher_->rows(begin, end); }
  const Tensor& hidden(int index) const override { return teacher_->hidden(index); }
  const AttentionParts& attention(int block) const override { return teacher_->attention(block); }

 private:
  std::unique_ptr<Teacher> teacher_;
  int starts_;
};

// Parts of 7 windows end within batches of 4, so that a resumed pass begins in the middle of one.
TEST_P(CachedTeacherTest, AKilledPassGivesTheSameBytes) {
  const std::string expected = all_bytes(cached(device_, 8, 4, 20));
  const TrainingData data = small_data();
  for (const double commit_seconds : {0.0, 1e9})
    for (int starts = 0; starts < 7; ++starts) {
      const CacheTeacherOptions options{.sequences = 4, .chunk_rows = 20, .commit_seconds = commit_seconds};
      const std::string folder = memory_folder() + "/cache";
      {
        FailingTeacher teacher(live(device_), starts);
        TeacherCacheWriter writer = checked(
            TeacherCacheWriter::open(folder, header_for(data, teacher.vocabulary_size(), 8), JobMode::fresh));
        EXPECT_FALSE(cache_teacher(teacher, device_, data, options, writer));
      }
      const auto teacher = live(device_);
      TeacherCacheWriter writer = checked(
          TeacherCacheWriter::open(folder, header_for(data, teacher->vocabulary_size(), 8), JobMode::resume));
      EXPECT_EQ(writer.next_window(), commit_seconds == 0.0 ? 4 * starts : 4 * starts / 7 * 7);
      EXPECT_TRUE(cache_teacher(*teacher, device_, data, options, writer));
      EXPECT_TRUE(writer.finish());
      EXPECT_TRUE(all_bytes(folder) == expected) << starts;
    }
}

TEST_P(CachedTeacherTest, RefusesWhatItDoesNotKnow) {
  const int64_t vocabulary = live(device_)->vocabulary_size();
  const auto reader = reader_of(cached(device_, 8, 8, 512));
  const auto larger = cached_teacher(reader, device_, vocabulary - 1);
  ASSERT_FALSE(larger);
  EXPECT_EQ(larger.error().rule, "TC05");
  const auto teacher = checked(cached_teacher(reader, device_, vocabulary));
  LossConfig loss = LossConfig::defaults(LossKind::kl, true);
  EXPECT_TRUE(teacher->check(loss, {}));
  EXPECT_EQ(teacher->check(loss, {.hidden = {1}}).error().exit, Exit::unsupported);
  loss.temperature = 2.0;
  const Status other = teacher->check(loss, {});
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().exit, Exit::locked);
  EXPECT_EQ(other.error().got + " " + other.error().limit, "1 2");
  loss = LossConfig::defaults(LossKind::reverse_kl, true);
  loss.tail = TeacherTail::zero;
  EXPECT_EQ(teacher->check(loss, {}).error().rule, "CL13");
}

}  // namespace
}  // namespace pare::test
