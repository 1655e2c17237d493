#include "cli/evaluation_input.h"

#include <algorithm>

#include "engine/tokenizer/token_windows.h"

namespace pare::cli {
namespace {

Error no_prefix(const std::string& option, const std::string& what) {
  return Error{
      .exit = Exit::usage, .rule = "CL13", .path = option, .where = {}, .what = what, .got = {}, .limit = {}};
}

// The whole text is tokenised and is shorter than --tokens asks for.
Error too_few_tokens(int64_t got, int64_t need) {
  return Error{.exit = Exit::malformed,
               .rule = "DT07",
               .path = "--data",
               .where = "tokens",
               .what = "text has fewer than --tokens asks for",
               .got = std::to_string(got),
               .limit = std::to_string(need),
               .limit_label = "need"};
}

// The document without template tokens; special-token strings in it are ordinary text.
Result<std::vector<int32_t>> text_ids(const Tokenizer& tokenizer, const std::string& text) {
  return tokenizer.encode(text, {.add_special = false, .parse_special = false});
}

void finish(EvaluationInput& input) {
  input.token_hash = token_hash(input.ids).substr(0, 16);
}

// Each page on its own, one token of context in front of it.
Result<EvaluationInput> rolling_input(const TextData& data, const Tokenizer& tokenizer,
                                      const ModelConfig& config, const EvaluationInputOptions& options) {
  EvaluationInput input;
  const std::optional<int32_t> prefix = tokenizer.bos_id() ? tokenizer.bos_id() : tokenizer.eos_id();
  const int32_t prefix_id = prefix                   ? *prefix
                            : config.bos_id >= 0     ? config.bos_id
                            : config.eos_ids.empty() ? -1
                                                     : config.eos_ids[0];
  if (prefix_id < 0)
    return no_prefix("--protocol", "word needs a BOS or EOS token in front, and the model has neither");
  input.bos = "prefix";
  int64_t left = options.max_tokens > 0 ? options.max_tokens : INT64_MAX;
  bool is_whole = true;
  for (const std::string& document : data.documents) {
    if (left == 0) {
      is_whole = false;
      break;
    }
    PARE_TRY(std::vector<int32_t> ids, text_ids(tokenizer, document));
    if (int64_t(ids.size()) > left) {
      ids.resize(size_t(left));
      is_whole = false;
    }
    if (ids.empty()) continue;
    left -= int64_t(ids.size());
    PARE_TRY(auto windows, evaluation_windows(int64_t(ids.size()) + 1, options.protocol));
    const int64_t offset = int64_t(input.ids.size());
    for (EvaluationWindow& window : windows) window.begin += offset;
    input.windows.insert(input.windows.end(), windows.begin(), windows.end());
    input.ids.push_back(prefix_id);
    input.ids.insert(input.ids.end(), ids.begin(), ids.end());
    input.words += count_words(document);
    input.text_bytes += int64_t(document.size());
  }
  if (options.max_tokens > 0 && left > 0)
    return too_few_tokens(options.max_tokens - left, options.max_tokens);
  if (!is_whole) input.words = input.text_bytes = 0;
  finish(input);
  return input;
}

}  // namespace

Result<EvaluationInput> make_evaluation_input(const TextData& data, const Tokenizer& tokenizer,
                                              const ModelConfig& config,
                                              const EvaluationInputOptions& options) {
  if (options.protocol.protocol == Protocol::word) return rolling_input(data, tokenizer, config, options);
  EvaluationInput input;
  const std::string text = data.joined();
  PARE_TRY(std::vector<int32_t> ids, text_ids(tokenizer, text));
  if (int64_t(ids.size()) < options.max_tokens)
    return too_few_tokens(int64_t(ids.size()), options.max_tokens);
  if (options.max_tokens > 0 && int64_t(ids.size()) > options.max_tokens) {
    ids.resize(size_t(options.max_tokens));
  } else {
    input.text_bytes = int64_t(text.size());
    input.words = count_words(text);
  }
  const std::string& policy = options.bos_policy;
  const bool wants_bos = policy == "always" || policy == "once" || (policy == "auto" && tokenizer.adds_bos());
  if (wants_bos && !tokenizer.bos_id()) return no_prefix("--bos", "this model has no BOS token");
  const bool every_window =
      wants_bos &&
      (policy == "always" || (policy == "auto" && options.protocol.protocol == Protocol::llamacpp));
  input.bos = !wants_bos ? "none" : every_window ? "every window" : "once";
  // llama.cpp tokenises with special tokens on, so its stream starts with BOS as well.
  const bool in_stream = wants_bos && (!every_window || options.protocol.protocol == Protocol::llamacpp);
  if (in_stream && (ids.empty() || ids.front() != *tokenizer.bos_id()))
    ids.insert(ids.begin(), *tokenizer.bos_id());
  input.ids = std::move(ids);
  PARE_TRY(input.windows, evaluation_windows(int64_t(input.ids.size()), options.protocol));
  if (every_window) input.bos_id = *tokenizer.bos_id();
  for (EvaluationWindow& window : input.windows) window.replace_first_with_bos = every_window;
  finish(input);
  return input;
}

}  // namespace pare::cli
