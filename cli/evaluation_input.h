// cli/evaluation_input.h: from a text file to the token stream of a protocol, with the BOS policy said aloud.
#pragma once

#include <string>
#include <vector>

#include "cli/text_data.h"
#include "engine/models/model_config.h"
#include "engine/tokenizer/tokenizer.h"
#include "evaluate/protocol.h"

namespace pare::cli {

struct EvaluationInput {
  std::vector<int32_t> ids;  // framed: BOS included where the policy puts it
  std::vector<EvaluationWindow> windows;
  std::string token_hash;  // first 16 hex digits of the SHA-256 of the framed stream
  std::string bos;         // "once", "every window", "none"
  int32_t bos_id = -1;     // for windows that replace their first token
  int64_t text_bytes = 0;  // UTF-8 bytes of the scored text (whole text when --tokens is not given)
  int64_t words = 0;       // of the text; only when the whole text is scored
};

struct EvaluationInputOptions {
  ProtocolOptions protocol;
  std::string bos_policy = "auto";  // auto, always, never, once
  int64_t max_tokens = 0;           // of the text, BOS not counted; 0: all
};

Result<EvaluationInput> make_evaluation_input(const TextData& data, const Tokenizer& tokenizer,
                                              const ModelConfig& config,
                                              const EvaluationInputOptions& options);

}  // namespace pare::cli
