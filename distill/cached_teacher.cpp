#include "distill/cached_teacher.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>
#include <vector>

#include "distill/cache_fields.h"
#include "distill/parameter_pieces.h"
#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/core/signals.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

class CachedTeacher : public Teacher {
 public:
  CachedTeacher(std::shared_ptr<const TeacherCacheReader> reader, Device device)
      : reader_(std::move(reader)), device_(device) {}

  int64_t vocabulary_size() const override { return reader_->header().vocabulary; }
  int64_t logit_columns() const override { return 0; }
  int64_t hidden_size() const override { return 0; }

  Status check(const LossConfig& loss, const TeacherNeeds& needs) const override {
    PARE_CHECK(loss.validate());
    if (!needs.empty())
      return Error{.exit = Exit::unsupported,
                   .path = "--cache-teacher",
                   .what = "a cached teacher has no hidden states; use a live one"};
    if (loss.divergence() == Divergence::reverse_kl && loss.tail == TeacherTail::zero)
      return Error{.exit = Exit::usage,
                   .rule = "CL13",
                   .path = "--teacher-tail",
                   .what = "reverse KL is infinite where the teacher has no probability",
                   .got = "zero",
                   .limit = "bucket or topk",
                   .limit_label = "expected"};
    if (loss.temperature != reader_->temperature())
      return foreign_cache("--cache-teacher", "temperature", fmt::format("{}", reader_->temperature()),
                           fmt::format("{}", loss.temperature));
    return {};
  }

  Status reserve(const Batch& largest, int64_t, const TeacherNeeds& needs) override {
    PARE_ASSERT(needs.empty(), "[cached_teacher] hidden states");
    const Shape shape{largest.tokens(), reader_->header().k};
    PARE_TRY(ids_, Tensor::allocate(DType::i32, shape));
    PARE_TRY(log_probs_, Tensor::allocate(DType::f32, shape));
    PARE_TRY(ids_there_, moved(ids_, device_));
    PARE_TRY(log_probs_there_, moved(log_probs_, device_));
    return {};
  }

  uint64_t held_bytes() const override { return ids_.size_bytes() + log_probs_.size_bytes(); }

  Status start(const TeacherBatch& given) override {
    const TeacherCacheHeader& header = reader_->header();
    const auto count = int64_t(given.windows.size());
    PARE_ASSERT(given.batch.tokens_per_sequence == header.context && given.batch.sequences == count &&
                    given.batch.tokens() <= ids_.size(0),
                "[cached_teacher] {} windows of {} tokens", count, given.batch.tokens_per_sequence);
    const int64_t values = header.context * header.k;
    std::vector<std::optional<Error>> errors(given.windows.size());
    parallel_for(count, [&](int64_t i) {
      const Status read = reader_->read(given.windows[size_t(i)], ids_.mutable_data<int32_t>() + i * values,
                                        log_probs_.mutable_data<float>() + i * values);
      if (!read) errors[size_t(i)] = read.error();
    });
    for (std::optional<Error>& error : errors)
      if (error) return *std::move(error);
    if (device_.is_host()) return {};
    const int64_t rows = given.batch.tokens();
    PARE_CHECK(copy_into(ids_.rows(0, rows), ids_there_.rows(0, rows)));
    return copy_into(log_probs_.rows(0, rows), log_probs_there_.rows(0, rows));
  }

  Result<TeacherRows> rows(int64_t begin, int64_t end) override {
    return TeacherRows{.logits = {},
                       .top_ids = ids_there_.rows(begin, end),
                       .top_log_probs = log_probs_there_.rows(begin, end)};
  }

  const Tensor& hidden(int index) const override {
    PARE_ASSERT(false, "[cached_teacher] state {}", index);
    return ids_;
  }
  const AttentionParts& attention(int block) const override {
    PARE_ASSERT(false, "[cached_teacher] attention of block {}", block);
    return no_parts_;
  }

 private:
  std::shared_ptr<const TeacherCacheReader> reader_;
  Device device_;
  Tensor ids_, log_probs_;              // [tokens, k], in host memory
  Tensor ids_there_, log_probs_there_;  // on the device; the same memory on a host
  AttentionParts no_parts_;
};

}  // namespace

Result<std::unique_ptr<Teacher>> cached_teacher(std::shared_ptr<const TeacherCacheReader> reader,
                                                Device device, int64_t student_vocabulary) {
  if (reader->header().vocabulary > student_vocabulary)
    return foreign_cache("--cache-teacher", "vocabulary", fmt::format("{}", reader->header().vocabulary),
                         fmt::format("at most {}", student_vocabulary));
  return std::unique_ptr<Teacher>(std::make_unique<CachedTeacher>(std::move(reader), device));
}

Status cache_teacher(Teacher& teacher, Device device, const TrainingData& data,
                     const CacheTeacherOptions& options, TeacherCacheWriter& writer) {
  using Clock = std::chrono::steady_clock;
  const TeacherCacheHeader& header = writer.header();
  PARE_ASSERT(header.context == data.context() && header.windows == data.all_windows() &&
                  header.vocabulary <= teacher.vocabulary_size(),
              "[cache_teacher] {} windows of {} tokens", header.windows, header.context);
  const int64_t context = header.context;
  PARE_CHECK(teacher.reserve({.sequences = options.sequences, .tokens_per_sequence = context},
                             options.chunk_rows, {}));
  PARE_TRY(const Tensor ids, Tensor::allocate(DType::i32, {options.sequences * context}));
  Clock::time_point committed = Clock::now();
  while (writer.next_window() < header.windows) {
    // Always the same windows together, also when some of them are there already: a product of other shape
    // may round differently, and a resumed run shall give the same bytes.
    const int64_t first = writer.next_window() / options.sequences * options.sequences;
    const int64_t sequences = std::min(options.sequences, header.windows - first);
    const int64_t begin_window = writer.next_window();
    std::vector<int64_t> windows;
    for (int64_t i = 0; i < sequences; ++i) {
      windows.push_back(first + i);
      data.inputs_of(first + i, ids.mutable_data<int32_t>() + i * context);
    }
    const Batch batch{.sequences = sequences, .tokens_per_sequence = context};
    const Tensor chosen = ids.rows(0, batch.tokens());
    PARE_CHECK(teacher.start(
        {.ids = device.is_host() ? chosen.on(device) : chosen, .batch = batch, .windows = windows}));
    const int64_t known = (begin_window - first) * context;  // rows
    for (int64_t row = 0; row < batch.tokens(); row += options.chunk_rows) {
      const int64_t end = std::min(batch.tokens(), row + options.chunk_rows);
      if (end <= known) continue;
      PARE_TRY(const TeacherRows rows, teacher.rows(row, end));
      PARE_TRY(const Tensor logits, in_host_memory(rows.logits));
      const int64_t from = std::max(row, known), stride = logits.row_stride();
      PARE_CHECK(
          writer.put(writer.next_window(), logits.data<float>() + (from - row) * stride, end - from, stride));
    }
    if (options.advance) options.advance(first + sequences - begin_window);
    const bool stops = interrupted();
    if (stops || std::chrono::duration<double>(Clock::now() - committed).count() > options.commit_seconds) {
      PARE_CHECK(writer.checkpoint());
      committed = Clock::now();
    }
    if (stops && writer.next_window() < header.windows) return writer.interrupted_error();
  }
  return {};
}

}  // namespace pare
