#include <algorithm>
#include <optional>
#include <utility>

#include "distill/teacher.h"
#include "engine/tensor/transfer.h"
#include "engine/tensor/workspace.h"

namespace pare {
namespace {

class LiveTeacher : public Teacher {
 public:
  LiveTeacher(std::unique_ptr<Model> model, bool one_block_at_a_time)
      : model_(std::move(model)), one_block_(one_block_at_a_time) {}

  int64_t vocabulary_size() const override { return model_->config().vocabulary_size; }
  int64_t hidden_size() const override { return model_->config().hidden_size; }

  Status check(const LossConfig& loss, const TeacherNeeds& needs) const override {
    PARE_CHECK(loss.validate());
    for (const int index : needs.hidden)
      PARE_ASSERT(index >= 0 && index <= block_count(), "[teacher] state {}", index);
    for (const int index : needs.attention)
      PARE_ASSERT(index >= 0 && index < block_count(), "[teacher] block {}", index);
    return {};
  }

  Status reserve(const Batch& largest, int64_t chunk_rows, const TeacherNeeds& needs) override {
    needs_ = needs;
    kept_scope_.reset();
    const Device device = model_->device();
    PARE_CHECK(model_->reserve_positions(largest.tokens_per_sequence));
    if (one_block_) {
      PARE_CHECK(model_->load_embedding());
      PARE_CHECK(model_->load_head());
    } else {
      PARE_CHECK(model_->load_all());
    }
    PARE_TRY(stream_, Tensor::allocate(DType::f32, {largest.tokens(), hidden_size()}, device));
    PARE_TRY(logits_, Tensor::allocate(DType::f32, {chunk_rows, vocabulary_size()}, device));
    hidden_.assign(needs_.hidden.size(), Tensor());
    for (Tensor& hidden : hidden_) {
      PARE_TRY(hidden, Tensor::allocate(DType::f32, stream_.shape(), device));
    }
    rows_of_hidden_ = hidden_;
    size_t kept_bytes = 0;
    for (const int index : needs_.attention) kept_bytes += model_->attention_bytes(index, largest);
    PARE_TRY(kept_, Workspace::reserve(kept_bytes, device));
    PARE_TRY(workspace_, Workspace::reserve(model_->workspace_bytes(largest, chunk_rows), device));
    return {};
  }

  uint64_t held_bytes() const override {
    uint64_t bytes = model_->loaded_bytes() + stream_.size_bytes() + logits_.size_bytes();
    for (const Tensor& hidden : hidden_) bytes += hidden.size_bytes();
    return bytes + kept_->capacity() + workspace_->capacity();
  }

  Status start(const TeacherBatch& given) override {
    const Batch& batch = given.batch;
    PARE_ASSERT(batch.tokens() <= stream_.size(0), "[teacher] {} tokens; {} are reserved", batch.tokens(),
                stream_.size(0));
    rows_ = stream_.rows(0, batch.tokens());
    kept_scope_.reset();
    kept_scope_.emplace(*kept_);
    attention_.clear();
    const Device device = model_->device();
    const Tensor ids = device.is_host() ? given.ids.on(device) : given.ids;
    PARE_CHECK(model_->embed(ids, batch, rows_, *workspace_));
    PARE_CHECK(keep_hidden(0));
    for (int index = 0; index < block_count(); ++index) {
      if (one_block_) {
        PARE_CHECK(model_->load_block(index));
        model_->prefetch_block(index + 1);
      }
      if (is_wanted(needs_.attention, index)) {
        AttentionParts parts;
        PARE_CHECK(model_->attention_parts(index, batch, rows_, parts, *kept_, *workspace_));
        attention_.push_back(std::move(parts));
      }
      PARE_CHECK(model_->run_block(index, batch, rows_, nullptr, *workspace_));
      if (one_block_) model_->drop_block(index);
      PARE_CHECK(keep_hidden(index + 1));
    }
    return {};
  }

  Result<TeacherRows> rows(int64_t begin, int64_t end) override {
    PARE_ASSERT(end - begin <= logits_.size(0), "[teacher] {} rows; chunks have {}", end - begin,
                logits_.size(0));
    Tensor logits = logits_.rows(0, end - begin);
    PARE_CHECK(model_->run_head(rows_.rows(begin, end), logits, *workspace_));
    return TeacherRows{.logits = std::move(logits), .top_ids = {}, .top_log_probs = {}};
  }

  const Tensor& hidden(int index) const override { return rows_of_hidden_[place(needs_.hidden, index)]; }
  const AttentionParts& attention(int block) const override {
    return attention_[place(needs_.attention, block)];
  }

 private:
  int block_count() const { return int(model_->config().block_count()); }
  static bool is_wanted(const std::vector<int>& list, int index) {
    return std::find(list.begin(), list.end(), index) != list.end();
  }
  static size_t place(const std::vector<int>& list, int index) {
    const auto found = std::find(list.begin(), list.end(), index);
    PARE_ASSERT(found != list.end(), "[teacher] nobody asked for {}", index);
    return size_t(found - list.begin());
  }
  Status keep_hidden(int index) {
    if (!is_wanted(needs_.hidden, index)) return {};
    const size_t at = place(needs_.hidden, index);
    rows_of_hidden_[at] = hidden_[at].rows(0, rows_.size(0));
    return copy_into(rows_, rows_of_hidden_[at]);
  }

  std::unique_ptr<Model> model_;
  bool one_block_;
  TeacherNeeds needs_;
  Tensor stream_, rows_, logits_;
  std::vector<Tensor> hidden_, rows_of_hidden_;
  std::vector<AttentionParts> attention_;  // of needs_.attention
  std::optional<Workspace> kept_, workspace_;
  std::optional<Workspace::Scope> kept_scope_;
};

}  // namespace

std::unique_ptr<Teacher> live_teacher(std::unique_ptr<Model> model, bool one_block_at_a_time) {
  return std::make_unique<LiveTeacher>(std::move(model), one_block_at_a_time);
}

}  // namespace pare
