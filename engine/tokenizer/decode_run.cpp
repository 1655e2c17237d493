#include "engine/tokenizer/decoders.h"

namespace pare {

class DecodeRun::Sink : public DecodeStage {
 public:
  void begin_token() override {}
  void text(std::string_view fragment) override { *out += fragment; }
  void end_token() override {}
  void finish() override {}
  std::string* out = nullptr;
};

DecodeRun::DecodeRun(const DecoderChain& chain) : sink_(std::make_unique<Sink>()) {
  DecodeStage* next = sink_.get();
  for (size_t i = chain.steps().size(); i-- > 0;) {
    stages_.push_back(chain.steps()[i]->start(*next));
    next = stages_.back().get();
  }
}

DecodeRun::~DecodeRun() = default;

void DecodeRun::push(std::string_view token, std::string& out) {
  sink_->out = &out;
  DecodeStage& first = stages_.empty() ? *sink_ : *stages_.back();
  first.begin_token();
  first.text(token);
  first.end_token();
}

void DecodeRun::finish(std::string& out) {
  sink_->out = &out;
  // Every stage hands its rest on, then lets the next one finish.
  (stages_.empty() ? static_cast<DecodeStage&>(*sink_) : *stages_.back()).finish();
}

}  // namespace pare
