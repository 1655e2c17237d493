// engine/tokenizer/load.h: the parts of tokenizer.json, one function each. All errors name path and field.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/core/hash.h"
#include "engine/tokenizer/added_tokens.h"
#include "engine/tokenizer/decoders.h"
#include "engine/tokenizer/load_fields.h"
#include "engine/tokenizer/model.h"
#include "engine/tokenizer/normalizers.h"
#include "engine/tokenizer/pre_tokenizers.h"

namespace pare {

// "vocab" of a model, {token: id} or (Unigram) [[token, score], ...]. `scores` is filled for the latter.
// Errors: TK01, TK02, TK03, TK07, TK13, and resource above kVocabulary.
Result<Vocabulary> load_vocabulary(const Fields& model, size_t added_tokens, std::vector<double>* scores);

struct LoadedModel {
  std::unique_ptr<const Model> model;
  std::vector<int32_t> merges;  // (left, right) in rank order, for the hash of the definition
  std::string options;          // canonical text of everything else
};
// `raw_bytes`: the pieces come before byte-level mapping (BPE only). Errors: TK04, TK05, TK12, TK14, TK15 and
// those of load_vocabulary.
Result<LoadedModel> load_model(const Fields& root, bool raw_bytes);
// Type of the model, also where an old file leaves it out.
Result<std::string> model_type(const Fields& root);

Result<NormalizerChain> load_normalizer(const Fields& root);

struct LoadedPreTokenizer {
  std::vector<PreTokenizerStep> steps;
  bool ends_in_byte_map = false;  // the last step maps bytes (and no other step does)
};
Result<LoadedPreTokenizer> load_pre_tokenizer(const Fields& root);

Result<DecoderChain> load_decoder(const Fields& root);

// Tokens that frame a sequence.
struct Framing {
  std::vector<int32_t> before, after;
  bool empty() const { return before.empty() && after.empty(); }
};
// `id_bound`: ids must be below it. Errors: TK01, TK06, TK12.
Result<Framing> load_post_processor(const Fields& root, int64_t id_bound);

// Validated against the vocabulary; `pattern` filled in through `normalizer`. Errors: TK01, TK06, TK07.
Result<std::vector<AddedToken>> load_added_tokens(const Fields& root, const Vocabulary& vocabulary,
                                                  const NormalizerChain& normalizer);

// What tokenizer_config.json and special_tokens_map.json add. Errors: TK01, TK18.
struct ConfigTokens {
  std::optional<std::string> bos, eos;
  std::optional<bool> add_bos, add_eos;  // as the file says, or as its tokenizer class implies
  bool explicit_no_bos = false, explicit_no_eos = false;
};
Result<ConfigTokens> load_config(const std::optional<std::string>& config_json,
                                 const std::string& config_path, const std::optional<std::string>& map_json,
                                 const std::string& map_path);

// A pattern object {"String": ...} or {"Regex": ...} (or a bare string).
struct LoadedPattern {
  bool is_regex = false;
  std::string text;
};
Result<LoadedPattern> load_pattern(const Fields& step);
Result<ReplaceRule> load_replace(const Fields& step);

// How many times longer a replacement may make a text; multiplied over a chain and compared with
// kTokenizerGrowth (unsupported, TK12).
class Growth {
 public:
  Status add(const Fields& step, const ReplaceRule& rule);
  Status add(const Fields& step, size_t factor);

 private:
  uint64_t factor_ = 1;
};

}  // namespace pare
