#include "engine/tokenizer/decoders.h"
#include "engine/tokenizer/parts.h"
#include "engine/tokenizer/tokenizer.h"

namespace pare {

struct StreamDecoder::State {
  const Tokenizer* tokenizer;
  bool skip_special;
  std::unique_ptr<DecodeRun> run;
};

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
    : state_(std::make_unique<State>(
          State{&tokenizer, skip_special, std::make_unique<DecodeRun>(tokenizer.parts().decoder)})) {}
StreamDecoder::~StreamDecoder() = default;
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;

std::string StreamDecoder::push(int32_t id) {
  std::string out;
  const std::string_view text = state_->tokenizer->parts().decoder_text(id);
  if (!text.empty() && !(state_->skip_special && state_->tokenizer->is_special(id)))
    state_->run->push(text, out);
  return out;
}

std::string StreamDecoder::flush() {
  std::string out;
  state_->run->finish(out);
  state_->run = std::make_unique<DecodeRun>(state_->tokenizer->parts().decoder);
  return out;
}

}  // namespace pare
