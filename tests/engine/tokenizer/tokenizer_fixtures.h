// tests/engine/tokenizer/tokenizer_fixtures.h: tokenizers and texts that several tests use.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/core/json.h"
#include "engine/core/result.h"
#include "engine/tokenizer/tokenizer.h"

namespace pare::test {

using LoadedTokenizer = Result<std::shared_ptr<const Tokenizer>>;

LoadedTokenizer load_text(const std::string& tokenizer_json,
                          std::optional<std::string> config_json = std::nullopt);
// A folder of the reference data ("tokenizer-cases/gpt2"); fails the test when it does not load.
std::shared_ptr<const Tokenizer> load_shared(const std::string& folder);

// The JSON of a byte-level BPE tokenizer: all 256 byte characters with ids 0 to 255, then `tokens`, then
// `merges`. `tail` goes into the root object, for example R"("normalizer":{"type":"NFC"})".
std::string byte_level_json(const std::vector<std::string>& tokens, const std::vector<std::string>& merges,
                            const std::string& tail = {});
// {"version":"1.0", <tail>, "model":<model>}.
std::string document(const std::string& model, const std::string& tail = {});

std::vector<Json> read_json_lines(const std::string& path);
std::vector<int32_t> ids_of(const Json& array);
std::vector<int32_t> encode(const Tokenizer& tokenizer, std::string_view text,
                            const EncodeOptions& options = {});
std::vector<std::string> tokens_of(const Tokenizer& tokenizer, std::string_view text);

// Random text of characters that the patterns treat differently, with long runs of one kind.
std::string random_text(uint64_t seed, size_t characters);

}  // namespace pare::test
