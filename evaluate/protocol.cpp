#include "evaluate/protocol.h"

#include <algorithm>
#include <array>

#include "engine/core/text.h"

namespace pare {
namespace {

constexpr std::array<std::string_view, 4> kNames = {"disjoint", "stride", "llamacpp", "word"};

Error too_few(int64_t tokens, int64_t need) {
  return Error{.exit = Exit::malformed,
               .rule = "DT07",
               .path = "--data",
               .where = "tokens",
               .what = "too few for one window; lower --context or give more text",
               .got = std::to_string(tokens),
               .limit = std::to_string(need),
               .limit_label = "need"};
}

std::vector<EvaluationWindow> disjoint(int64_t tokens, int64_t context) {
  std::vector<EvaluationWindow> windows;
  for (int64_t begin = 0; begin + context <= tokens; begin += context) {
    windows.push_back({.begin = begin, .length = context, .score_begin = 0, .score_end = context - 1});
  }
  return windows;
}

std::vector<EvaluationWindow> strided(int64_t tokens, int64_t context, int64_t stride) {
  std::vector<EvaluationWindow> windows;
  int64_t scored = 1;  // the very first token has no context and is never scored
  for (int64_t begin = 0;; begin += stride) {
    const int64_t end = std::min(begin + context, tokens);
    // Targets scored .. end-1 are predicted by rows one before them. Where windows do not overlap, the first
    // token of each has no such row and is not scored, as in the guide, which shifts labels inside the
    // window.
    windows.push_back({.begin = begin,
                       .length = end - begin,
                       .score_begin = std::max<int64_t>(scored - 1 - begin, 0),
                       .score_end = end - 1 - begin});
    scored = end;
    if (end == tokens) break;
  }
  return windows;
}

std::vector<EvaluationWindow> half_windows(int64_t tokens, int64_t context) {
  std::vector<EvaluationWindow> windows = disjoint(tokens, context);
  for (EvaluationWindow& window : windows) {
    window.score_begin = context / 2;
    window.replace_first_with_bos = true;
  }
  return windows;
}

// The stream is prefix, x0, x1, ...; every x is scored once.
std::vector<EvaluationWindow> rolling(int64_t tokens, int64_t context) {
  std::vector<EvaluationWindow> windows;
  const int64_t targets = tokens - 1;
  int64_t done = std::min(context, targets);
  windows.push_back({.begin = 0, .length = done, .score_begin = 0, .score_end = done});
  while (done < targets) {
    const int64_t count = std::min(targets - done, context), end = done + count;
    windows.push_back(
        {.begin = end - context, .length = context, .score_begin = context - count, .score_end = context});
    done = end;
  }
  return windows;
}

}  // namespace

std::string_view protocol_name(Protocol protocol) {
  return kNames[size_t(protocol)];
}

Result<Protocol> parse_protocol(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i)
    if (kNames[i] == name) return Protocol(i);
  return Error{.exit = Exit::usage,
               .rule = "CL06",
               .path = "--protocol",
               .where = {},
               .what = "unknown protocol",
               .got = quote(name),
               .limit = "disjoint, stride, llamacpp, word",
               .limit_label = "expected"};
}

Result<std::vector<EvaluationWindow>> evaluation_windows(int64_t tokens, const ProtocolOptions& options) {
  switch (options.protocol) {
    case Protocol::disjoint:
      if (tokens < options.context) return too_few(tokens, options.context);
      return disjoint(tokens, options.context);
    case Protocol::stride:
      if (tokens < 2) return too_few(tokens, 2);
      return strided(tokens, options.context, options.stride);
    case Protocol::llamacpp:
      if (tokens < 2 * options.context) return too_few(tokens, 2 * options.context);
      return half_windows(tokens, options.context);
    case Protocol::word:
      if (tokens < 2) return too_few(tokens, 2);
      return rolling(tokens, options.context);
  }
  return std::vector<EvaluationWindow>();
}

int64_t count_words(std::string_view text) {
  int64_t pieces = 1;
  bool in_space = false;
  for (char c : text) {
    const bool is_space = c == ' ' || (c >= '\t' && c <= '\r');
    if (is_space && !in_space) ++pieces;
    in_space = is_space;
  }
  return pieces;
}

}  // namespace pare
