#include "evaluate/evaluate.h"

#include <algorithm>
#include <chrono>

#include "engine/tensor/transfer.h"
#include "evaluate/scores.h"

namespace pare {
namespace {

constexpr size_t kWorstTokens = 20;

class Stopwatch {
 public:
  void start() { begin_ = std::chrono::steady_clock::now(); }
  void stop() {
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }
  double seconds() const { return seconds_; }

 private:
  std::chrono::steady_clock::time_point begin_;
  double seconds_ = 0.0;
};

// One model with its buffers: hidden states of a group of windows and logits of a chunk of rows.
class Walker {
 public:
  static Result<Walker> make(Model& model, int64_t max_rows, const Batch& largest, int64_t logit_rows) {
    Walker walker(model);
    walker.was_loaded_ = model.block_loaded(0);
    PARE_TRY(walker.hidden_,
             Tensor::allocate(DType::f32, {max_rows, model.config().hidden_size}, model.device()));
    PARE_TRY(walker.logits_,
             Tensor::allocate(DType::f32, {logit_rows, model.config().vocabulary_size}, model.device()));
    PARE_TRY(walker.workspace_,
             Workspace::reserve(model.workspace_bytes(largest, logit_rows), model.device()));
    PARE_CHECK(model.load_embedding());
    PARE_CHECK(model.load_head());
    return walker;
  }

  // Hidden states after the last block. Blocks that were not loaded before are dropped again.
  Status run(const Tensor& ids, const Batch& batch) {
    watch_.start();
    rows_ = hidden_.rows(0, batch.tokens());
    PARE_CHECK(model_->embed(ids, batch, rows_, workspace_));
    for (int block = 0; block < int(model_->config().block_count()); ++block) {
      if (!was_loaded_) {
        PARE_CHECK(model_->load_block(block));
        model_->prefetch_block(block + 1);
      }
      PARE_CHECK(model_->run_block(block, batch, rows_, nullptr, workspace_));
      if (!was_loaded_) model_->drop_block(block);
    }
    watch_.stop();
    return {};
  }

  // Logits of rows [begin, end) of the last run.
  Result<Tensor> logits(int64_t begin, int64_t end) {
    watch_.start();
    Tensor out = logits_.rows(0, end - begin);
    PARE_CHECK(model_->run_head(rows_.rows(begin, end), out, workspace_));
    watch_.stop();
    return out;
  }

  double seconds() const { return watch_.seconds(); }

 private:
  explicit Walker(Model& model) : model_(&model) {}
  Model* model_;
  bool was_loaded_ = false;
  Tensor hidden_, rows_, logits_;
  Workspace workspace_;
  Stopwatch watch_;
};

class Evaluation {
 public:
  Evaluation(Model& model, Model* reference, std::span<const int32_t> ids,
             std::span<const EvaluationWindow> windows, const EvaluateOptions& options,
             const std::function<void(int64_t)>& advance)
      : model_(model),
        reference_(reference),
        ids_(ids),
        windows_(windows),
        options_(options),
        advance_(advance) {}

  Result<EvaluateResult> run() {
    PARE_CHECK(prepare());
    for (size_t first = 0; first < windows_.size();) {
      const size_t count = group_size(first);
      PARE_CHECK(run_group(first, count));
      first += count;
    }
    return summarise();
  }

 private:
  // Consecutive windows of one length that fit the batch; at least one.
  size_t group_size(size_t first) const {
    const int64_t length = windows_[first].length;
    const size_t most = size_t(std::max<int64_t>(1, options_.batch_tokens / length));
    size_t count = 1;
    while (count < most && first + count < windows_.size() && windows_[first + count].length == length)
      ++count;
    return count;
  }

  Status prepare() {
    int64_t rows = 0, logit_rows = 1;
    Batch largest;
    for (size_t first = 0; first < windows_.size();) {
      const size_t count = group_size(first);
      const Batch batch{.sequences = int64_t(count), .tokens_per_sequence = windows_[first].length};
      if (batch.tokens() > rows) largest = batch;
      rows = std::max(rows, batch.tokens());
      for (size_t i = first; i < first + count; ++i) {
        logit_rows = std::max(logit_rows, windows_[i].score_end - windows_[i].score_begin);
      }
      first += count;
    }
    logit_rows_ = std::min(logit_rows, options_.logit_rows);
    PARE_TRY(Walker walker, Walker::make(model_, rows, largest, logit_rows_));
    walker_.emplace(std::move(walker));
    if (reference_ != nullptr) {
      PARE_TRY(Walker other, Walker::make(*reference_, rows, largest, logit_rows_));
      reference_walker_.emplace(std::move(other));
    }
    PARE_TRY(RowScorer scorer, RowScorer::make(logit_rows_, model_, reference_));
    scorer_.emplace(std::move(scorer));
    PARE_TRY(batch_ids_, Tensor::allocate(DType::i32, {rows}));
    return {};
  }

  Status run_group(size_t first, size_t count) {
    const int64_t length = windows_[first].length;
    const Batch batch{.sequences = int64_t(count), .tokens_per_sequence = length};
    int32_t* rows = batch_ids_.mutable_data<int32_t>();
    for (size_t i = 0; i < count; ++i) {
      const EvaluationWindow& window = windows_[first + i];
      std::copy_n(ids_.begin() + window.begin, length, rows + int64_t(i) * length);
      if (window.replace_first_with_bos && options_.bos_id >= 0) rows[int64_t(i) * length] = options_.bos_id;
    }
    const Tensor ids = batch_ids_.rows(0, batch.tokens());
    PARE_CHECK(walker_->run(ids, batch));
    if (reference_walker_) PARE_CHECK(reference_walker_->run(ids, batch));
    for (size_t i = 0; i < count; ++i) {
      PARE_CHECK(score_window(first + i, int64_t(i) * length));
      input_tokens_ += length;
      advance_(length);
    }
    return {};
  }

  // Rows [offset, offset + length) of the last run belong to window `index`.
  Status score_window(size_t index, int64_t offset) {
    const EvaluationWindow& window = windows_[index];
    for (int64_t begin = window.score_begin; begin < window.score_end; begin += logit_rows_) {
      const int64_t end = std::min(window.score_end, begin + logit_rows_);
      PARE_TRY(const Tensor logits, walker_->logits(offset + begin, offset + end));
      Tensor other;
      if (reference_walker_) {
        PARE_TRY(other, reference_walker_->logits(offset + begin, offset + end));
      }
      const int64_t first_target = window.begin + begin + 1;
      PARE_CHECK(scorer_->score({.targets = ids_.subspan(size_t(first_target), size_t(end - begin)),
                                 .window = index,
                                 .row = begin,
                                 .first_target = first_target},
                                logits, other, scores_));
    }
    scores_.window_sizes.push_back(window.score_end - window.score_begin);
    return {};
  }

  EvaluateResult summarise() const {
    EvaluateResult result;
    result.perplexity = perplexity_of(scores_.nll, scores_.window_sizes);
    for (double nll : scores_.nll) result.total_nll += nll;
    const bool compared = reference_ != nullptr;
    if (compared) {
      result.reference = perplexity_of(scores_.reference_nll, scores_.window_sizes);
      result.damage = damage_of(scores_.nll, scores_.reference_nll, scores_.kl, scores_.same_best());
    }
    for (const size_t at : scores_.worst(kWorstTokens)) {
      result.worst.push_back({scores_.positions[at], scores_.nll[at],
                              compared ? scores_.reference_nll[at] : 0.0, compared ? scores_.kl[at] : 0.0});
    }
    result.input_tokens = input_tokens_;
    result.seconds = walker_->seconds();
    result.tokens_per_second = result.seconds > 0.0 ? double(input_tokens_) / result.seconds : 0.0;
    return result;
  }

  Model& model_;
  Model* reference_;
  std::span<const int32_t> ids_;
  std::span<const EvaluationWindow> windows_;
  const EvaluateOptions& options_;
  const std::function<void(int64_t)>& advance_;
  std::optional<Walker> walker_, reference_walker_;
  std::optional<RowScorer> scorer_;
  Tensor batch_ids_;
  TokenScores scores_;
  int64_t logit_rows_ = 1, input_tokens_ = 0;
};

}  // namespace

Result<EvaluateResult> evaluate(Model& model, Model* reference, std::span<const int32_t> ids,
                                std::span<const EvaluationWindow> windows, const EvaluateOptions& options,
                                const std::function<void(int64_t)>& advance) {
  PARE_ASSERT(!windows.empty(), "[evaluate] no windows");
  PARE_CHECK(check_ids(model, ids));
  if (reference != nullptr) PARE_CHECK(check_vocabularies(model, *reference));
  return Evaluation(model, reference, ids, windows, options, advance).run();
}

Result<Tensor> all_logits(Model& model, const Tensor& ids, const EvaluateOptions& options) {
  PARE_CHECK(check_ids(model, {ids.data<int32_t>(), size_t(ids.numel())}));
  const Batch batch{.sequences = ids.size(0), .tokens_per_sequence = ids.size(1)};
  const int64_t vocabulary = model.config().vocabulary_size;
  PARE_TRY(Tensor out, Tensor::allocate(DType::f32, {batch.tokens(), vocabulary}));
  const int64_t logit_rows = std::min(batch.tokens(), options.logit_rows);
  PARE_TRY(Walker walker, Walker::make(model, batch.tokens(), batch, logit_rows));
  PARE_CHECK(walker.run(ids.reshaped({batch.tokens()}), batch));
  for (int64_t begin = 0; begin < batch.tokens(); begin += logit_rows) {
    const int64_t end = std::min(batch.tokens(), begin + logit_rows);
    PARE_TRY(Tensor logits, walker.logits(begin, end));
    PARE_CHECK(copy_into(logits, out.rows(begin, end)));
  }
  return out.reshaped({batch.sequences, batch.tokens_per_sequence, vocabulary});
}

}  // namespace pare
