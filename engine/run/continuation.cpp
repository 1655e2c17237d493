#include "engine/run/continuation.h"

#include "engine/core/assert.h"
#include "engine/tensor/backend.h"

namespace pare {

Result<std::unique_ptr<Continuation>> Continuation::begin(Model& model, std::span<const int32_t> prompt,
                                                          int64_t room, const SamplerOptions& options) {
  const auto tokens = int64_t(prompt.size()), capacity = tokens + room - 1;
  PARE_TRY(SequenceRunner runner, SequenceRunner::create(model, tokens, capacity));
  std::unique_ptr<Continuation> result(new Continuation(std::move(runner), prompt, room, options));
  DecodeBackend* decoding = backend_for(model.device()).decoding();
  if (decoding != nullptr) {
    const std::string why = DecodeRunner::why_not(model, capacity);
    if (why.empty()) {
      PARE_CHECK(result->begin_recorded(model, options, *decoding));
      return result;
    }
    result->notes_.push_back("steps are not recorded, and ids are chosen by the host: " + why);
  }
  PARE_CHECK(result->runner_.run(prompt));
  return result;
}

Status Continuation::begin_recorded(Model& model, const SamplerOptions& options, DecodeBackend& decoding) {
  PARE_TRY(decode_, DecodeRunner::create(model, runner_.cache(), 1, decoding));
  notes_ = decode_->notes();
  PARE_CHECK(runner_.run_on_device(history_));
  PARE_CHECK(decode_->start(0, history_, options, runner_.device_logits()));
  return backend_for(model.device()).finish();  // the prompt has run when this returns
}

Result<int32_t> Continuation::next() {
  PARE_ASSERT(drawn_ < room_, "[run] id {} of {}", drawn_ + 1, room_);
  if (decode_ != nullptr) {
    // The step behind this id is under way while the host looks at it.
    if (drawn_ + 1 < room_) PARE_CHECK(decode_->step(1));
    return decode_->id(0, drawn_++);
  }
  if (drawn_ > 0) PARE_CHECK(runner_.run(std::span(&history_.back(), 1)));
  PARE_TRY(const int32_t id, sampler_.next(runner_.logits(), history_, uint64_t(drawn_)));
  ++drawn_;
  history_.push_back(id);
  return id;
}

}  // namespace pare
