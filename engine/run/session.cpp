#include "engine/run/session.h"
#include "engine/tensor/transfer.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "engine/core/log.h"
#include "engine/core/signals.h"
#include "engine/run/continuation.h"
#include "engine/run/stop_filter.h"

namespace pare {
namespace {

constexpr int64_t kLogitRows = 512;  // rows of score() that meet the head at once

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Error prompt_error(Exit exit, std::string what, std::string got, std::string limit) {
  return {.exit = exit,
          .rule = exit == Exit::usage ? "CL06" : "TK20",
          .path = "prompt",
          .what = std::move(what),
          .got = std::move(got),
          .limit = std::move(limit),
          .limit_label = "limit"};
}

// Token ids to streamed text: whole characters, no stop strings.
class TextStream {
 public:
  TextStream(const Tokenizer* tokenizer, const std::vector<std::string>& stops,
             const std::function<bool(std::string_view)>& emit, std::string& text)
      : filter_(stops), emit_(emit), text_(text) {
    if (tokenizer != nullptr) decoder_.emplace(*tokenizer, /*skip_special=*/true);
  }

  // False when the receiver wants no more.
  bool push(int32_t id) { return !decoder_ || send(filter_.push(decoder_->push(id))); }
  bool finish() {
    if (!decoder_ || filter_.stopped()) return true;
    if (!send(filter_.push(decoder_->flush()))) return false;
    return send(filter_.flush());
  }
  bool stopped() const { return filter_.stopped(); }

 private:
  bool send(const std::string& piece) {
    if (piece.empty()) return true;
    text_ += piece;
    return !emit_ || emit_(piece);
  }

  std::optional<StreamDecoder> decoder_;
  StopFilter filter_;
  const std::function<bool(std::string_view)>& emit_;
  std::string& text_;
};

Status check_options(const GenerateOptions& options, bool has_tokenizer) {
  PARE_CHECK(check_sampler_options(options.sampler));
  if (options.max_new_tokens < 0)
    return Error{.exit = Exit::usage,
                 .path = "--max-new-tokens",
                 .what = "out of range",
                 .got = std::to_string(options.max_new_tokens),
                 .limit = "0 or above",
                 .limit_label = "expected"};
  for (const std::string& stop : options.stop) {
    if (!stop.empty() && has_tokenizer) continue;
    return Error{.exit = Exit::usage,
                 .path = "--stop",
                 .what = stop.empty() ? "a stop string must not be empty" : "stop strings need a tokenizer"};
  }
  return {};
}

}  // namespace

const char* stop_reason_name(StopReason reason) {
  switch (reason) {
    case StopReason::eos:
      return "eos";
    case StopReason::stop_string:
      return "stop_string";
    case StopReason::length:
      return "length";
    case StopReason::context_full:
      return "context_full";
    case StopReason::interrupted:
      return "interrupted";
  }
  return "length";
}

Result<std::unique_ptr<Session>> Session::open(std::shared_ptr<const WeightSource> source,
                                               std::shared_ptr<const Tokenizer> tokenizer, Device device,
                                               int64_t context, std::optional<KvQuant> kv) {
  std::unique_ptr<Session> session(new Session());
  session->tokenizer_ = std::move(tokenizer);
  PARE_TRY(session->model_, Model::open(std::move(source), device, kv));
  const ModelConfig& config = session->model_->config();
  // A learned table ends; a rotation goes on, for better or worse, and whoever asks for it gets it.
  const int64_t limit =
      config.positions == ModelConfig::Positions::learned ? config.max_positions : INT32_MAX - 1;
  if (context < 0 || context > limit)
    return Error{.exit = Exit::usage,
                 .path = "--context",
                 .what = "out of range",
                 .got = std::to_string(context),
                 .limit = fmt::format("1 to {}", limit),
                 .limit_label = "expected"};
  session->context_ = context == 0 ? config.max_positions : context;
  PARE_CHECK(session->model_->load_all());
  return session;
}

Result<GenerateResult> Session::generate(std::span<const int32_t> prompt, const GenerateOptions& options,
                                         const std::function<bool(std::string_view)>& emit) {
  PARE_CHECK(check_options(options, tokenizer_ != nullptr));
  const int64_t prompt_tokens = int64_t(prompt.size());
  if (prompt.empty()) return prompt_error(Exit::malformed, "empty", "0 tokens", "at least 1");
  if (prompt_tokens >= context_)
    return prompt_error(Exit::usage, "does not fit the context with room for one token",
                        fmt::format("{} tokens", prompt_tokens), fmt::format("{}", context_ - 1));
  const ModelConfig& config = model_->config();
  for (const int32_t id : prompt) {
    if (id >= 0 && id < config.vocabulary_size) continue;
    return prompt_error(Exit::malformed, "id outside the vocabulary", std::to_string(id),
                        std::to_string(config.vocabulary_size - 1));
  }

  GenerateResult result;
  result.prompt_tokens = prompt_tokens;
  if (options.max_new_tokens == 0) return result;
  const int64_t room = std::min(options.max_new_tokens, context_ - prompt_tokens);

  const Clock::time_point prefill_start = Clock::now();
  PARE_TRY(const std::unique_ptr<Continuation> continuation,
           Continuation::begin(*model_, prompt, room, options.sampler));
  result.is_recorded = continuation->is_recorded();
  for (const std::string& note : continuation->notes()) log_info(note);
  // The last new token is never run, so it needs no place in the cache.
  result.cache_bytes = KvCache::bytes_for(config, 1, prompt_tokens + room - 1);
  result.prefill_seconds = seconds_since(prefill_start);

  result.ids.reserve(size_t(room));
  TextStream stream(tokenizer_.get(), options.stop, emit, result.text);
  const Clock::time_point decode_start = Clock::now();
  while (true) {
    PARE_TRY(const int32_t id, continuation->next());
    result.decode_steps = int64_t(result.ids.size());
    const bool is_eos = std::find(config.eos_ids.begin(), config.eos_ids.end(), id) != config.eos_ids.end();
    if (is_eos && options.stop_at_eos) {
      result.reason = StopReason::eos;
      break;
    }
    result.ids.push_back(id);
    const bool wanted = stream.push(id);
    if (stream.stopped()) {
      result.reason = StopReason::stop_string;
      break;
    }
    if (!wanted || interrupted()) {
      result.reason = StopReason::interrupted;
      break;
    }
    if (int64_t(result.ids.size()) == room) {
      result.reason = room == options.max_new_tokens ? StopReason::length : StopReason::context_full;
      break;
    }
  }
  stream.finish();
  if (stream.stopped()) result.reason = StopReason::stop_string;
  result.decode_seconds = seconds_since(decode_start);
  return result;
}

Status Session::score(const Tensor& ids, const Batch& batch, Tensor& logits) {
  const ModelConfig& config = model_->config();
  const Device device = model_->device();
  PARE_ASSERT(logits.shape().rank() == 2 && logits.size(0) == batch.tokens() &&
                  logits.size(1) == config.vocabulary_size,
              "[session] logits {} for {} tokens", logits.shape().text(), batch.tokens());
  if (batch.tokens() == 0) return {};
  PARE_TRY(Tensor hidden, Tensor::allocate(DType::f32, {batch.tokens(), config.hidden_size}, device));
  const int64_t rows = std::min(kLogitRows, batch.tokens());
  const size_t bytes =
      std::max(model_->workspace_bytes(batch, rows), model_->workspace_bytes(batch, batch.tokens() % rows));
  PARE_TRY(Workspace workspace, Workspace::reserve(bytes, device));
  PARE_CHECK(model_->embed(ids.reshaped({batch.tokens()}), batch, hidden, workspace));
  for (int i = 0; i < int(config.block_count()); ++i)
    PARE_CHECK(model_->run_block(i, batch, hidden, /*cache=*/nullptr, workspace));
  Tensor chunk;  // where the device writes; a GPU's are copied back
  if (!device.is_host()) {
    PARE_TRY(chunk, Tensor::allocate(DType::f32, {rows, config.vocabulary_size}, device));
  }
  for (int64_t begin = 0; begin < batch.tokens(); begin += rows) {
    const int64_t end = std::min(begin + rows, batch.tokens());
    const Tensor target = logits.rows(begin, end);
    Tensor part = device.is_host() ? target.on(device) : chunk.rows(0, end - begin);
    PARE_CHECK(model_->run_head(hidden.rows(begin, end), part, workspace));
    if (!device.is_host()) PARE_CHECK(copy_into(part, target));
  }
  return {};
}

}  // namespace pare
