#include "engine/run/sequence_runner.h"

#include <algorithm>
#include <cstring>

#include "engine/core/assert.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

constexpr int64_t kPrefillTokens = 512;  // tokens of a prompt that run through the model at once

// Whole chunks, the ragged last one, and single tokens: a kernel for few rows may ask for more than one for
// many.
size_t scratch_bytes(const Model& model, int64_t prompt_tokens) {
  size_t bytes = 0;
  for (const int64_t tokens :
       {std::min(prompt_tokens, kPrefillTokens), prompt_tokens % kPrefillTokens, int64_t{1}})
    bytes = std::max(bytes, model.workspace_bytes({.sequences = 1, .tokens_per_sequence = tokens}, 1));
  return bytes;
}

}  // namespace

Result<SequenceRunner> SequenceRunner::create(Model& model, int64_t prompt_tokens, int64_t capacity) {
  const ModelConfig& config = model.config();
  const Device device = model.device();
  const int64_t rows = std::min(prompt_tokens, kPrefillTokens);
  SequenceRunner runner(model);
  PARE_CHECK(model.reserve_positions(capacity));
  PARE_TRY(runner.cache_, KvCache::allocate(config, 1, capacity, device));
  PARE_TRY(runner.ids_, Tensor::allocate(DType::i32, {rows}));
  PARE_TRY(runner.hidden_, Tensor::allocate(DType::f32, {rows, config.hidden_size}, device));
  PARE_TRY(runner.logits_, Tensor::allocate(DType::f32, {1, config.vocabulary_size}, device));
  if (!device.is_host()) {
    PARE_TRY(runner.host_logits_, Tensor::allocate(DType::f32, {1, config.vocabulary_size}));
  }
  PARE_TRY(runner.workspace_, Workspace::reserve(scratch_bytes(model, prompt_tokens), device));
  return runner;
}

uint64_t SequenceRunner::bytes_for(const Model& model, int64_t prompt_tokens, int64_t capacity) {
  const ModelConfig& config = model.config();
  const int64_t rows = std::min(prompt_tokens, kPrefillTokens);
  const int64_t floats = rows * (config.hidden_size + 1) + config.vocabulary_size;
  return KvCache::bytes_for(config, 1, capacity) + 4 * uint64_t(floats) + scratch_bytes(model, prompt_tokens);
}

Status SequenceRunner::run(std::span<const int32_t> tokens) {
  PARE_CHECK(run_on_device(tokens));
  return host_logits_.defined() ? copy_into(logits_, host_logits_) : Status();
}

Status SequenceRunner::run_on_device(std::span<const int32_t> tokens) {
  PARE_ASSERT(!tokens.empty() && cache_.length() + int64_t(tokens.size()) <= cache_.capacity(),
              "[run] {} tokens behind {} of {}", tokens.size(), cache_.length(), cache_.capacity());
  for (size_t begin = 0; begin < tokens.size(); begin += size_t(kPrefillTokens)) {
    const size_t count = std::min(tokens.size() - begin, size_t(kPrefillTokens));
    PARE_CHECK(run_chunk(tokens.subspan(begin, count)));
  }
  const Tensor last = hidden_.rows(last_row_, last_row_ + 1);
  return model_->run_head(last, logits_, workspace_);
}

Status SequenceRunner::run_chunk(std::span<const int32_t> tokens) {
  const int64_t count = int64_t(tokens.size());
  const Batch batch{.sequences = 1, .tokens_per_sequence = count, .first_position = cache_.length()};
  const Tensor ids = ids_.rows(0, count);
  std::memcpy(ids.mutable_data<int32_t>(), tokens.data(), tokens.size_bytes());
  Tensor hidden = hidden_.rows(0, count);
  PARE_CHECK(model_->embed(ids, batch, hidden, workspace_));
  for (int i = 0; i < int(model_->config().block_count()); ++i)
    PARE_CHECK(model_->run_block(i, batch, hidden, &cache_.block(i), workspace_));
  cache_.advance(count);
  last_row_ = count - 1;
  return {};
}

}  // namespace pare
