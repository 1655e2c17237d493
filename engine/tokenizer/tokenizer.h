// engine/tokenizer/tokenizer.h: text <-> token ids as tokenizer.json defines them.
//
// Encoding: split out added tokens, normalise, pre-tokenise, run the model (BPE, Unigram, WordPiece or
// WordLevel) on each piece, frame with the template tokens. Decoding: ids -> token texts -> decoder chain.
// A loaded Tokenizer never changes and may be used by any number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/hash.h"
#include "engine/core/result.h"

namespace pare {

// The files of a model directory as bytes; the paths are what error messages name.
struct TokenizerFiles {
  std::string tokenizer_json, tokenizer_json_path;
  std::optional<std::string> tokenizer_config_json, special_tokens_map_json;
  std::string tokenizer_config_path, special_tokens_map_path;
};

struct EncodeOptions {
  bool add_special = false;   // template tokens (BOS, [CLS] ... [SEP])
  bool parse_special = true;  // special-token strings inside the text become their ids, as Hugging Face does;
                              // false: they are ordinary text (TK17)
};

class Tokenizer {
 public:
  // Validates everything before anything is built. Errors carry the rule ids TK01 to TK19:
  // 3 malformed, 4 a type that pare does not know, 6 a cap of limits.h.
  static Result<std::shared_ptr<const Tokenizer>> load(const TokenizerFiles& files);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // `text` must be UTF-8 (exit 3). A pattern of the file that runs wild is exit 6 (TK09).
  Result<std::vector<int32_t>> encode(std::string_view text, const EncodeOptions& options = {}) const;
  // Ids without a token are skipped, as Hugging Face does.
  std::string decode(std::span<const int32_t> ids, bool skip_special) const;

  int64_t vocabulary_size() const;  // highest id + 1
  std::optional<int32_t> token_id(std::string_view token) const;
  std::string token_text(int32_t id) const;  // as in the file ("Ġthe"); empty when there is none
  bool is_special(int32_t id) const;
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  bool adds_bos() const;  // encode(add_special) puts bos_id() first
  // "byte-level BPE, 2048 tokens, adds <|begin|>"
  std::string description() const;
  // Of the normalised definition: the same for the same tokenizer whatever the layout of its JSON.
  Hash128 hash() const;

  // What the loader builds and StreamDecoder reads; private to this folder.
  struct Parts;
  explicit Tokenizer(std::unique_ptr<const Parts> parts);
  const Parts& parts() const { return *parts_; }

 private:
  std::unique_ptr<const Parts> parts_;
};

// Decodes a growing sequence. No call returns half a character, and all results together equal decode() of
// all ids. The tokenizer must outlive the decoder.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special);
  ~StreamDecoder();
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;

  std::string push(int32_t id);  // the text that became certain with this id
  std::string flush();           // the rest; the decoder is then as new

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pare
