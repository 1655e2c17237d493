#include "engine/tokenizer/decoders.h"

#include <optional>

#include "engine/core/text.h"
#include "engine/tokenizer/byte_level.h"
#include "engine/tokenizer/unicode.h"

namespace pare {
namespace {

constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

// A stage that looks at whole tokens: collects the fragments, then calls token().
class WholeTokenStage : public DecodeStage {
 public:
  explicit WholeTokenStage(DecodeStage& next) : next_(next) {}
  void begin_token() final { collected_.clear(); }
  void text(std::string_view fragment) final { collected_ += fragment; }
  void end_token() final { token(collected_); }
  void finish() final {
    last();
    next_.finish();
  }

 protected:
  virtual void token(std::string_view text) = 0;
  virtual void last() {}  // what is still held back
  void emit(std::string_view text) {
    next_.begin_token();
    next_.text(text);
    next_.end_token();
  }
  DecodeStage& next_;

 private:
  std::string collected_;
};

// `Stage` is built from the next stage and the decoder's arguments.
template <typename Stage, typename Arguments>
class DecoderOf : public Decoder {
 public:
  explicit DecoderOf(Arguments arguments) : arguments_(std::move(arguments)) {}
  std::unique_ptr<DecodeStage> start(DecodeStage& next) const override {
    return std::make_unique<Stage>(next, arguments_);
  }

 private:
  Arguments arguments_;
};

struct NoArguments {};

// All tokens become one.
class FuseStage : public DecodeStage {
 public:
  FuseStage(DecodeStage& next, const NoArguments&) : next_(next) {}
  void begin_token() override { open(); }
  void text(std::string_view fragment) override { next_.text(fragment); }
  void end_token() override {}
  void finish() override {
    open();
    next_.end_token();
    next_.finish();
  }

 private:
  void open() {
    if (!open_) next_.begin_token();
    open_ = true;
  }
  DecodeStage& next_;
  bool open_ = false;
};

// All tokens become one: the characters of the byte-level table back to bytes, a token with any other
// character as it is, and what is not UTF-8 then to U+FFFD.
class ByteLevelStage : public DecodeStage {
 public:
  explicit ByteLevelStage(DecodeStage& next) : next_(next) {}
  void begin_token() override {
    token_.clear();
    if (!open_) next_.begin_token();
    open_ = true;
  }
  void text(std::string_view fragment) override { token_ += fragment; }
  void end_token() override {
    const auto bytes = byte_level::unmap(token_);
    std::string out;
    utf8_.push(bytes ? std::string_view(*bytes) : token_, out);
    if (!out.empty()) next_.text(out);
  }
  void finish() override {
    if (!open_) next_.begin_token();
    std::string out;
    utf8_.finish(out);
    if (!out.empty()) next_.text(out);
    next_.end_token();
    next_.finish();
  }

 private:
  DecodeStage& next_;
  LossyUtf8 utf8_;
  std::string token_;
  bool open_ = false;
};

class ByteLevelDecoder : public Decoder {
 public:
  std::unique_ptr<DecodeStage> start(DecodeStage& next) const override {
    return std::make_unique<ByteLevelStage>(next);
  }
  bool is_byte_level() const override { return true; }
};

class ReplaceStage : public WholeTokenStage {
 public:
  ReplaceStage(DecodeStage& next, const ReplaceRule& rule) : WholeTokenStage(next), rule_(rule) {}

 protected:
  void token(std::string_view text) override {
    std::string out;
    // A pattern that runs into its limits leaves the token as it is: decoding has no way to fail.
    emit(rule_.apply(text, out) ? std::string_view(out) : text);
  }

 private:
  const ReplaceRule& rule_;
};

struct StripArguments {
  std::string content;  // one character
  uint64_t start, stop;
};

// Up to `start` copies at the beginning of a token and `stop` at its end. Copies that may be at the end wait.
class StripStage : public DecodeStage {
 public:
  StripStage(DecodeStage& next, const StripArguments& arguments) : next_(next), arguments_(arguments) {}
  void begin_token() override {
    next_.begin_token();
    to_strip_ = arguments_.start;
    held_ = 0;
  }
  void text(std::string_view fragment) override {
    while (to_strip_ > 0 && fragment.starts_with(arguments_.content)) {
      fragment.remove_prefix(arguments_.content.size());
      --to_strip_;
    }
    if (fragment.empty()) return;
    to_strip_ = 0;
    std::string_view body = fragment;
    uint64_t trailing = 0;
    while (body.ends_with(arguments_.content)) {
      body.remove_suffix(arguments_.content.size());
      ++trailing;
    }
    if (!body.empty()) {
      release(held_);
      next_.text(body);
    }
    held_ += trailing;
    if (held_ > arguments_.stop) release(held_ - arguments_.stop);
  }
  void end_token() override { next_.end_token(); }  // what is held falls away
  void finish() override { next_.finish(); }

 private:
  void release(uint64_t copies) {
    for (uint64_t i = 0; i < copies; ++i) next_.text(arguments_.content);
    held_ -= copies;
  }
  DecodeStage& next_;
  const StripArguments& arguments_;
  uint64_t to_strip_ = 0, held_ = 0;
};

// "<0x41>" -> 0x41.
std::optional<char> fallback_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || !token.ends_with('>')) return std::nullopt;
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
  };
  const int high = digit(token[3]), low = digit(token[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<char>(high << 4 | low);
}

// Runs of byte tokens become their text; a run that is not UTF-8 becomes one U+FFFD per byte, so a run can
// only be decided at its end.
class ByteFallbackStage : public WholeTokenStage {
 public:
  ByteFallbackStage(DecodeStage& next, const NoArguments&) : WholeTokenStage(next) {}

 protected:
  void token(std::string_view text) override {
    if (const auto byte = fallback_byte(text)) {
      run_ += *byte;
      return;
    }
    last();
    emit(text);
  }
  void last() override {
    if (run_.empty()) return;
    if (is_valid_utf8(run_)) {
      emit(run_);
    } else {
      for (size_t i = 0; i < run_.size(); ++i) emit(kReplacementCharacter);
    }
    run_.clear();
  }

 private:
  std::string run_;
};

struct MetaspaceArguments {
  std::string replacement;
  bool drops_first;  // in the first token the replacement vanishes instead of becoming a space
};

class MetaspaceStage : public WholeTokenStage {
 public:
  MetaspaceStage(DecodeStage& next, const MetaspaceArguments& arguments)
      : WholeTokenStage(next), arguments_(arguments) {}

 protected:
  void token(std::string_view text) override {
    const ReplaceRule rule{arguments_.replacement, nullptr, is_first_ && arguments_.drops_first ? "" : " "};
    std::string out;
    const Status replaced = rule.apply(text, out);
    emit(replaced ? std::string_view(out) : text);
    is_first_ = false;
  }

 private:
  const MetaspaceArguments& arguments_;
  bool is_first_ = true;
};

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  if (from.empty()) return;
  std::string out;
  size_t copied = 0;
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, copied)) {
    out.append(text, copied, at - copied);
    out += to;
    copied = at + from.size();
  }
  out.append(text, copied);
  text.swap(out);
}

// The spaces that English detokenisers take out again, in this order.
void clean_up(std::string& text) {
  constexpr std::pair<std::string_view, std::string_view> kRules[] = {
      {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},    {" n't", "n't"},
      {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
  };
  for (const auto& [from, to] : kRules) replace_all(text, from, to);
}

struct WordPieceArguments {
  std::string prefix;
  bool cleanup;
};

class WordPieceStage : public WholeTokenStage {
 public:
  WordPieceStage(DecodeStage& next, const WordPieceArguments& arguments)
      : WholeTokenStage(next), arguments_(arguments) {}

 protected:
  void token(std::string_view text) override {
    std::string out;
    if (!is_first_ && text.starts_with(arguments_.prefix)) {
      out = text.substr(arguments_.prefix.size());
    } else {
      if (!is_first_) out = " ";
      out += text;
    }
    if (arguments_.cleanup) clean_up(out);
    emit(out);
    is_first_ = false;
  }

 private:
  const WordPieceArguments& arguments_;
  bool is_first_ = true;
};

// The suffix becomes a space, in the last token nothing; so one token is always held back.
class BpeStage : public WholeTokenStage {
 public:
  BpeStage(DecodeStage& next, const std::string& suffix) : WholeTokenStage(next), suffix_(suffix) {}

 protected:
  void token(std::string_view text) override {
    release(" ");
    held_ = std::string(text);
  }
  void last() override { release(""); }

 private:
  void release(std::string_view replacement) {
    if (!held_) return;
    replace_all(*held_, suffix_, replacement);
    emit(*held_);
    held_.reset();
  }
  const std::string& suffix_;
  std::optional<std::string> held_;
};

struct CtcArguments {
  std::string pad, delimiter;
  bool cleanup;
};

class CtcStage : public WholeTokenStage {
 public:
  CtcStage(DecodeStage& next, const CtcArguments& arguments) : WholeTokenStage(next), arguments_(arguments) {}

 protected:
  void token(std::string_view text) override {
    if (previous_ == text) return;
    previous_ = std::string(text);
    std::string out(text);
    replace_all(out, arguments_.pad, "");
    if (arguments_.cleanup) {
      clean_up(out);
      replace_all(out, arguments_.delimiter, " ");
    }
    if (!out.empty()) emit(out);
  }

 private:
  const CtcArguments& arguments_;
  std::optional<std::string> previous_;
};

class SpaceJoinStage : public WholeTokenStage {
 public:
  SpaceJoinStage(DecodeStage& next, const NoArguments&) : WholeTokenStage(next) {}

 protected:
  void token(std::string_view text) override {
    if (!is_first_) emit(" ");
    emit(text);
    is_first_ = false;
  }

 private:
  bool is_first_ = true;
};

template <typename Stage, typename Arguments>
DecoderStep make(Arguments arguments) {
  return std::make_unique<DecoderOf<Stage, Arguments>>(std::move(arguments));
}

}  // namespace

DecoderStep make_byte_level_decoder() {
  return std::make_unique<ByteLevelDecoder>();
}
DecoderStep make_replace_decoder(ReplaceRule rule) {
  return make<ReplaceStage>(std::move(rule));
}
DecoderStep make_fuse_decoder() {
  return make<FuseStage>(NoArguments{});
}
DecoderStep make_strip_decoder(uint32_t content, uint64_t start, uint64_t stop) {
  return make<StripStage>(StripArguments{unicode::encode(content), start, stop});
}
DecoderStep make_byte_fallback_decoder() {
  return make<ByteFallbackStage>(NoArguments{});
}
DecoderStep make_metaspace_decoder(uint32_t replacement, bool drops_first) {
  return make<MetaspaceStage>(MetaspaceArguments{unicode::encode(replacement), drops_first});
}
DecoderStep make_wordpiece_decoder(std::string prefix, bool cleanup) {
  return make<WordPieceStage>(WordPieceArguments{std::move(prefix), cleanup});
}
DecoderStep make_bpe_decoder(std::string suffix) {
  return make<BpeStage>(std::move(suffix));
}
DecoderStep make_ctc_decoder(std::string pad, std::string delimiter, bool cleanup) {
  return make<CtcStage>(CtcArguments{std::move(pad), std::move(delimiter), cleanup});
}
DecoderStep make_space_join_decoder() {
  return make<SpaceJoinStage>(NoArguments{});
}

}  // namespace pare
