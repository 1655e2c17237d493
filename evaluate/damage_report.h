// evaluate/damage_report.h: what compression did to a model, seen from inside: both models walk the same
// tokens block by block in one pass. In memory: hidden states of all tokens for both, one block of each,
// logits of a few hundred rows; never a whole model, never a file of logits.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/models/architecture.h"
#include "engine/models/weight_source.h"
#include "engine/tokenizer/tokenizer.h"
#include "evaluate/histogram.h"
#include "evaluate/protocol.h"
#include "evaluate/statistics.h"

namespace pare {

// The tokens that both models see, and where they come from.
struct DamageTokens {
  std::span<const int32_t> ids;
  std::vector<EvaluationWindow> windows;
  int32_t bos_id = -1;     // of windows that replace their first token; negative: they keep it
  std::string source;      // shown to people: "calibration data", the name of a file
  std::string token_hash;  // SHA-256 of the ids
};

// The first `windows` windows of `context` tokens of a stream cut side by side, every token but the first of
// a window scored. Windows beyond the stream are left out.
DamageTokens damage_tokens(std::span<const int32_t> ids, int64_t context, int64_t windows,
                           std::string source);

struct DamageOptions {
  Device device = Device::cpu();
  int64_t batch_tokens = 4096;  // rows per pass through a block; at least one window
  int64_t logit_rows = 512;     // logits are made for this many rows at a time
  int64_t worst_tokens = 20;
  int64_t text_tokens = 24;  // tokens of context shown before a worst token
  bool activation_histograms = true;
  bool weight_histograms = true;  // of the matrices whose stored form differs
};

struct WorstToken {
  int64_t position = 0;  // of the predicted token in the stream
  int64_t window = 0, position_in_window = 0;
  int32_t id = 0;
  std::string context;  // decoded text before it, at most `text_tokens` tokens of its window; sanitised
  std::string token;    // decoded, sanitised
  std::string original_best, compressed_best;  // what the models would have said, sanitised
  double nll = 0.0, original_nll = 0.0, kl = 0.0;
};

struct BlockDamage {
  int block = 0;
  double relative_error = 0.0;  // ||h_c - h_o||_F / ||h_o||_F of the block's output over all tokens
};

struct SiteDamage {
  int block = 0;
  Site site = Site::none;  // attention_in, attention_out, mlp_in, mlp_out
  MagnitudeHistogram original, compressed;
};

struct WeightDamage {
  std::string name;
  int block = -1;
  std::string scheme;                   // of the compressed form; "f32" and the like for dense ones
  ValueHistogram original, compressed;  // the same edges
};

struct DamageReport {
  std::string source, token_hash;
  int64_t windows = 0, context = 0;  // context: tokens of the longest window
  int64_t input_tokens = 0, scored_tokens = 0;
  Perplexity original, compressed;
  Damage damage;
  std::vector<WorstToken> worst;  // largest KL first
  std::vector<BlockDamage> blocks;
  std::vector<SiteDamage> sites;      // in execution order; empty when not asked for
  std::vector<WeightDamage> weights;  // in execution order; empty when not asked for
};

// Bytes beyond the program itself that damage_report() takes at its peak, estimated from shapes.
Result<uint64_t> damage_report_bytes(const WeightSource& original, const WeightSource& compressed,
                                     const DamageTokens& tokens, const DamageOptions& options);

// Walks both models over the tokens. `tokenizer` may be null: then worst tokens have no text.
// `advance` gets tokens done, blocks of both * input tokens in the end; an error from it ends the walk. The
// same bytes for any number of threads. Without blocks, sites and weights where depth or width differ. Exit 3
// when vocabularies differ or an id has no row; 7 (NU16) for values that are not finite.
Result<DamageReport> damage_report(std::shared_ptr<const WeightSource> original,
                                   std::shared_ptr<const WeightSource> compressed, const DamageTokens& tokens,
                                   const Tokenizer* tokenizer, const DamageOptions& options,
                                   const std::function<Status(int64_t tokens)>& advance);

}  // namespace pare
