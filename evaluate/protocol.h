// evaluate/protocol.h: the four ways in which the field measures perplexity, as windows over a token stream.
// Values of different protocols never compare. Source: docs/methods.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/result.h"

namespace pare {

enum class Protocol : uint8_t {
  disjoint,  // windows side by side, targets 1 .. L-1 of each (GPTQ and Wanda papers)
  stride,    // windows of M tokens every `stride`, targets not scored before (Hugging Face guide)
  llamacpp,  // windows side by side, second half scored, first token replaced by BOS (llama.cpp)
  word,      // rolling windows with one token of context, result per word (lm-eval)
};
std::string_view protocol_name(Protocol protocol);
Result<Protocol> parse_protocol(std::string_view name);  // exit 2

// One forward pass: inputs ids[begin, begin + length) of the framed stream; the logits of row i predict the
// token at begin + i + 1. Rows [score_begin, score_end) count.
struct EvaluationWindow {
  int64_t begin = 0, length = 0;
  int64_t score_begin = 0, score_end = 0;
  bool replace_first_with_bos = false;
};

struct ProtocolOptions {
  Protocol protocol = Protocol::disjoint;
  int64_t context = 0;  // tokens per window, >= 2
  int64_t stride = 0;   // of Protocol::stride, 1 .. context
};

// Windows over a stream of `tokens` tokens. Protocol::word expects the stream to start with the prefix token
// (BOS, else EOS). Exit 3 (DT07) when there are too few tokens.
Result<std::vector<EvaluationWindow>> evaluation_windows(int64_t tokens, const ProtocolOptions& options);

// Pieces of a split on runs of Unicode-independent whitespace, empty end pieces included: what lm-eval
// divides by.
int64_t count_words(std::string_view text);

}  // namespace pare
