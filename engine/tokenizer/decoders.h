// engine/tokenizer/decoders.h: from token texts back to text, as a chain that can be fed token by token.
//
// Each stage receives tokens as fragments: begin of a token, some of its text, its end. A stage that needs
// whole tokens collects them, a stage that does not passes text on at once. Decoding everything and decoding
// as tokens arrive are therefore the same code, and give the same text. No stage passes on half a character.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/normalizers.h"

namespace pare {

class DecodeStage {
 public:
  virtual ~DecodeStage() = default;
  virtual void begin_token() = 0;
  virtual void text(std::string_view fragment) = 0;
  virtual void end_token() = 0;
  virtual void finish() = 0;  // no more tokens
};

// The immutable description of a stage; start() makes a running one that writes to `next`.
class Decoder {
 public:
  virtual ~Decoder() = default;
  virtual std::unique_ptr<DecodeStage> start(DecodeStage& next) const = 0;
  virtual bool is_byte_level() const { return false; }
};
using DecoderStep = std::unique_ptr<const Decoder>;

DecoderStep make_byte_level_decoder();
DecoderStep make_replace_decoder(ReplaceRule rule);
DecoderStep make_fuse_decoder();
DecoderStep make_strip_decoder(uint32_t content, uint64_t start, uint64_t stop);
DecoderStep make_byte_fallback_decoder();
DecoderStep make_metaspace_decoder(uint32_t replacement, bool drops_first);
DecoderStep make_wordpiece_decoder(std::string prefix, bool cleanup);
DecoderStep make_bpe_decoder(std::string suffix);
DecoderStep make_ctc_decoder(std::string pad, std::string delimiter, bool cleanup);
DecoderStep make_space_join_decoder();  // no decoder in the file: tokens joined by spaces

class DecoderChain {
 public:
  void add(DecoderStep step) { steps_.push_back(std::move(step)); }
  bool empty() const { return steps_.empty(); }
  bool only_byte_level() const { return steps_.size() == 1 && steps_[0]->is_byte_level(); }
  const std::vector<DecoderStep>& steps() const { return steps_; }

 private:
  std::vector<DecoderStep> steps_;
};

// A chain at work. push() and finish() append the text that became certain.
class DecodeRun {
 public:
  explicit DecodeRun(const DecoderChain& chain);
  ~DecodeRun();
  void push(std::string_view token, std::string& out);
  void finish(std::string& out);

 private:
  class Sink;
  std::unique_ptr<Sink> sink_;
  std::vector<std::unique_ptr<DecodeStage>> stages_;  // the first is last in the chain
};

// Bytes that arrive in parts -> valid UTF-8: each maximal invalid part becomes one U+FFFD, an incomplete
// character at the end waits for the rest.
class LossyUtf8 {
 public:
  void push(std::string_view bytes, std::string& out);
  void finish(std::string& out);

 private:
  std::string pending_;  // at most three bytes: the beginning of a valid character
};

}  // namespace pare
