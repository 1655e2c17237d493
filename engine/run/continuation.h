// engine/run/continuation.h: what follows a prompt, id by id: from steps that the device records and chooses
// in (decode_runner.h) where it offers them, else one operation after the other with the sampler of the host.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/run/decode_runner.h"
#include "engine/run/sampler.h"
#include "engine/run/sequence_runner.h"

namespace pare {

class Continuation {
 public:
  // Runs the prompt. Up to `room` ids will be asked for; the cache has places for prompt.size() + room - 1
  // positions, since the last id is never run. model is loaded and outlives this. Exit 3, 6, 7.
  static Result<std::unique_ptr<Continuation>> begin(Model& model, std::span<const int32_t> prompt,
                                                     int64_t room, const SamplerOptions& options);

  // The next id, at most `room` times. Exit 6, 7.
  Result<int32_t> next();

  bool is_recorded() const { return decode_ != nullptr; }
  // Why steps are not recorded, or which of their products are not fused; for -v.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  Continuation(SequenceRunner runner, std::span<const int32_t> prompt, int64_t room,
               const SamplerOptions& options)
      : runner_(std::move(runner)), history_(prompt.begin(), prompt.end()), room_(room), sampler_(options) {}
  Status begin_recorded(Model& model, const SamplerOptions& options, DecodeBackend& decoding);

  SequenceRunner runner_;
  std::unique_ptr<DecodeRunner> decode_;  // goes before the cache that it writes to
  std::vector<int32_t> history_;
  int64_t room_, drawn_ = 0;
  Sampler sampler_;
  std::vector<std::string> notes_;
};

}  // namespace pare
