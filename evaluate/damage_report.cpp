#include "evaluate/damage_report.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "engine/tensor/transfer.h"
#include "engine/tokenizer/token_windows.h"
#include "evaluate/damage_walk.h"
#include "evaluate/scores.h"

namespace pare {
namespace {

constexpr int64_t kErrorRows = 64;  // per partial sum of block errors; added in order

// Blocks of models that were made shallower or narrower do not compare one by one; what they say does.
bool has_same_blocks(const Model& original, const Model& compressed) {
  const ModelConfig &own = compressed.config(), &other = original.config();
  return own.block_count() == other.block_count() && own.hidden_size == other.hidden_size;
}

// ||h_c - h_o||_F / ||h_o||_F
Result<double> relative_error(const Tensor& original, const Tensor& compressed, const WeightSource& source,
                              int block) {
  const int64_t rows = original.size(0), channels = original.size(1);
  const size_t pieces = size_t((rows + kErrorRows - 1) / kErrorRows);
  std::vector<double> differences(pieces), norms(pieces);
  parallel_ranges(rows, kErrorRows, [&](int64_t begin, int64_t end) {
    const float* h_o = original.data<float>() + begin * channels;
    const float* h_c = compressed.data<float>() + begin * channels;
    double difference = 0.0, norm = 0.0;
    for (int64_t i = 0; i < (end - begin) * channels; ++i) {
      const double o = double(h_o[i]), d = double(h_c[i]) - o;
      difference += d * d;
      norm += o * o;
    }
    differences[size_t(begin / kErrorRows)] = difference;
    norms[size_t(begin / kErrorRows)] = norm;
  });
  double difference = 0.0, norm = 0.0;
  for (size_t i = 0; i < pieces; ++i) difference += differences[i], norm += norms[i];
  if (!std::isfinite(difference) || !std::isfinite(norm)) {
    return Error{.exit = Exit::numeric,
                 .rule = "NU16",
                 .path = source.path(),
                 .where = fmt::format("block {}", block),
                 .what = "hidden states are not finite",
                 .got = {},
                 .limit = {}};
  }
  return norm > 0.0 ? std::sqrt(difference / norm) : 0.0;
}

Result<Tensor> floats_of(const WeightSource& source, const std::string& name) {
  PARE_TRY(const WeightData data, source.load(name));
  PARE_TRY(Tensor values, data.to_dense_tensor());
  if (values.dtype() == DType::f32) return values;
  return converted(values, DType::f32);
}

// Matrices whose stored form is not the original's.
bool is_compressed(const StoredTensor& original, const StoredTensor& compressed) {
  const bool is_same = original.scheme == compressed.scheme && original.pattern == compressed.pattern &&
                       original.rank == compressed.rank;
  return compressed.shape.rank() == 2 && !is_same;
}

class DamageRun {
 public:
  DamageRun(const DamageTokens& tokens, const Tokenizer* tokenizer, const DamageOptions& options,
            const std::function<Status(int64_t)>& advance)
      : tokens_(tokens), tokenizer_(tokenizer), options_(options), advance_(advance) {}

  Result<DamageReport> run(std::shared_ptr<const WeightSource> original,
                           std::shared_ptr<const WeightSource> compressed) {
    groups_ = window_groups(tokens_.windows, options_.batch_tokens);
    for (const EvaluationWindow& window : tokens_.windows)
      logit_rows_ = std::max(logit_rows_, window.score_end - window.score_begin);
    logit_rows_ = std::min(logit_rows_, options_.logit_rows);
    {
      PARE_TRY(DamageWalk walk, DamageWalk::open(std::move(original), groups_, logit_rows_, options_.device));
      original_.emplace(std::move(walk));
    }
    {
      PARE_TRY(DamageWalk walk,
               DamageWalk::open(std::move(compressed), groups_, logit_rows_, options_.device));
      compressed_.emplace(std::move(walk));
    }
    PARE_CHECK(check_vocabularies(compressed_->model(), original_->model()));
    PARE_CHECK(check_ids(compressed_->model(), tokens_.ids));
    PARE_CHECK(embed());
    const int blocks = int(original_->model().config().block_count());
    if (has_same_blocks(original_->model(), compressed_->model())) {
      PARE_CHECK(weights_of(-1));
      for (int block = 0; block < blocks; ++block) PARE_CHECK(run_block(block));
      PARE_CHECK(weights_of(blocks));
    } else {
      PARE_CHECK(run_alone(*original_));
      PARE_CHECK(run_alone(*compressed_));
    }
    PARE_CHECK(score());
    return summarise();
  }

 private:
  Status embed() {
    int64_t rows = 0;
    for (const WindowGroup& group : groups_) rows += group.batch.tokens();
    PARE_TRY(const Tensor ids, Tensor::allocate(DType::i32, {rows}));
    int32_t* out = ids.mutable_data<int32_t>();
    for (const EvaluationWindow& window : tokens_.windows) {
      std::copy_n(tokens_.ids.begin() + window.begin, window.length, out);
      if (window.replace_first_with_bos && tokens_.bos_id >= 0) out[0] = tokens_.bos_id;
      out += window.length;
    }
    PARE_CHECK(original_->embed(ids, groups_));
    return compressed_->embed(ids, groups_);
  }

  Status run_alone(DamageWalk& walk) {
    const int blocks = int(walk.model().config().block_count());
    for (int block = 0; block < blocks; ++block)
      PARE_CHECK(walk.run_block(block, groups_, nullptr, advance_, {walk, block + 1}));
    return {};
  }

  Status run_block(int block) {
    std::map<Site, MagnitudeHistogram> before, after;
    const bool wanted = options_.activation_histograms;
    PARE_CHECK(
        original_->run_block(block, groups_, wanted ? &before : nullptr, advance_, {*compressed_, block}));
    PARE_CHECK(
        compressed_->run_block(block, groups_, wanted ? &after : nullptr, advance_, {*original_, block + 1}));
    PARE_TRY(const Tensor hidden, moved(original_->hidden(), Device::cpu()));
    PARE_TRY(const Tensor other, moved(compressed_->hidden(), Device::cpu()));
    PARE_TRY(const double error, relative_error(hidden, other, compressed_->model().source(), block));
    report_.blocks.push_back({.block = block, .relative_error = error});
    for (auto& [site, histogram] : before) {
      report_.sites.push_back({.block = block,
                               .site = site,
                               .original = std::move(histogram),
                               .compressed = std::move(after[site])});
    }
    return weights_of(block);
  }

  Status weights_of(int block) {
    if (!options_.weight_histograms) return {};
    const WeightSource& before = original_->model().source();
    const WeightSource& after = compressed_->model().source();
    for (const TensorSpec& spec : compressed_->model().description().tensors) {
      if (spec.block != block) continue;
      const StoredTensor *own = after.find(spec.name), *other = before.find(spec.name);
      if (own == nullptr || other == nullptr || !is_compressed(*other, *own)) continue;
      WeightDamage weight{.name = spec.name, .block = block, .scheme = {}, .original = {}, .compressed = {}};
      weight.scheme = own->is_quantized() ? own->scheme->text() : own->form_text();
      {
        PARE_TRY(const Tensor values, floats_of(before, spec.name));
        weight.original = value_histogram(values, largest_magnitude(values));
        before.release(spec.name);
      }
      PARE_TRY(const Tensor values, floats_of(after, spec.name));
      weight.compressed = value_histogram(values, weight.original.limit);
      after.release(spec.name);
      report_.weights.push_back(std::move(weight));
    }
    return {};
  }

  Status score() {
    PARE_CHECK(original_->load_head());
    PARE_CHECK(compressed_->load_head());
    PARE_TRY(RowScorer scorer, RowScorer::make(logit_rows_, compressed_->model(), &original_->model()));
    int64_t row = 0;
    for (size_t index = 0; index < tokens_.windows.size(); ++index) {
      const EvaluationWindow& window = tokens_.windows[index];
      for (int64_t begin = window.score_begin; begin < window.score_end; begin += logit_rows_) {
        const int64_t end = std::min(window.score_end, begin + logit_rows_);
        PARE_TRY(const Tensor before, original_->logits(row + begin, row + end));
        PARE_TRY(const Tensor after, compressed_->logits(row + begin, row + end));
        const int64_t first_target = window.begin + begin + 1;
        PARE_CHECK(scorer.score({.targets = tokens_.ids.subspan(size_t(first_target), size_t(end - begin)),
                                 .window = index,
                                 .row = begin,
                                 .first_target = first_target},
                                after, before, scores_));
      }
      scores_.window_sizes.push_back(window.score_end - window.score_begin);
      row += window.length;
    }
    report_.input_tokens = row;
    return {};
  }

  std::string text_of(std::span<const int32_t> ids) const {
    return tokenizer_ == nullptr ? std::string() : sanitize(tokenizer_->decode(ids, false));
  }

  WorstToken worst_token(size_t at) const {
    WorstToken worst;
    size_t scored = 0;  // before this window
    while (at >= scored + size_t(scores_.window_sizes[size_t(worst.window)]))
      scored += size_t(scores_.window_sizes[size_t(worst.window++)]);
    worst.position = scores_.positions[at];
    const EvaluationWindow& window = tokens_.windows[size_t(worst.window)];
    worst.position_in_window = worst.position - window.begin;
    const int64_t begin = std::max(window.begin, worst.position - options_.text_tokens);
    worst.context = text_of(tokens_.ids.subspan(size_t(begin), size_t(worst.position - begin)));
    worst.id = tokens_.ids[size_t(worst.position)];
    worst.token = text_of(std::span(&worst.id, 1));
    worst.original_best = text_of(std::span(&scores_.reference_best[at], 1));
    worst.compressed_best = text_of(std::span(&scores_.best[at], 1));
    worst.nll = scores_.nll[at];
    worst.original_nll = scores_.reference_nll[at];
    worst.kl = scores_.kl[at];
    return worst;
  }

  DamageReport summarise() {
    report_.source = tokens_.source;
    report_.token_hash = tokens_.token_hash.empty() ? token_hash(tokens_.ids) : tokens_.token_hash;
    report_.windows = int64_t(tokens_.windows.size());
    for (const EvaluationWindow& window : tokens_.windows)
      report_.context = std::max(report_.context, window.length);
    report_.scored_tokens = int64_t(scores_.nll.size());
    report_.original = perplexity_of(scores_.reference_nll, scores_.window_sizes);
    report_.compressed = perplexity_of(scores_.nll, scores_.window_sizes);
    report_.damage = damage_of(scores_.nll, scores_.reference_nll, scores_.kl, scores_.same_best());
    for (const size_t at : scores_.worst(size_t(options_.worst_tokens)))
      report_.worst.push_back(worst_token(at));
    return std::move(report_);
  }

  const DamageTokens& tokens_;
  const Tokenizer* tokenizer_;
  const DamageOptions& options_;
  const std::function<Status(int64_t)>& advance_;
  std::vector<WindowGroup> groups_;
  int64_t logit_rows_ = 1;
  std::optional<DamageWalk> original_, compressed_;
  TokenScores scores_;
  DamageReport report_;
};

// Largest sum of stored bytes of one block, and of everything outside blocks.
uint64_t largest_part(const Model& model) {
  std::map<int, uint64_t> parts;
  for (const TensorSpec& spec : model.description().tensors) {
    const int blocks = int(model.config().block_count());
    const StoredTensor* stored = model.source().find(spec.name);
    if (stored != nullptr) parts[spec.block >= blocks ? -1 : spec.block] += stored->bytes;
  }
  uint64_t largest = 0;
  for (const auto& [block, bytes] : parts) largest = std::max(largest, bytes);
  return largest;
}

}  // namespace

DamageTokens damage_tokens(std::span<const int32_t> ids, int64_t context, int64_t windows,
                           std::string source) {
  DamageTokens tokens;
  tokens.source = std::move(source);
  const int64_t count = std::min(windows, int64_t(ids.size()) / context);
  for (int64_t i = 0; i < count; ++i)
    tokens.windows.push_back({.begin = i * context,
                              .length = context,
                              .score_begin = 0,
                              .score_end = context - 1,
                              .replace_first_with_bos = false});
  tokens.ids = ids.first(size_t(count * context));
  tokens.token_hash = token_hash(tokens.ids);
  return tokens;
}

Result<uint64_t> damage_report_bytes(const WeightSource& original, const WeightSource& compressed,
                                     const DamageTokens& tokens, const DamageOptions& options) {
  const std::vector<WindowGroup> groups = window_groups(tokens.windows, options.batch_tokens);
  int64_t rows = 0;
  for (const WindowGroup& group : groups) rows += group.batch.tokens();
  uint64_t bytes = uint64_t(rows) * sizeof(int32_t);
  for (const WeightSource* source : {&original, &compressed}) {
    // Only described; a source that outlives the call needs no owner.
    PARE_TRY(
        const auto model,
        Model::open(std::shared_ptr<const WeightSource>(std::shared_ptr<void>(), source), Device::cpu()));
    const ModelConfig& config = model->config();
    bytes +=
        uint64_t(rows * config.hidden_size + options.logit_rows * config.vocabulary_size) * sizeof(float);
    bytes += walk_workspace_bytes(*model, groups, options.logit_rows);
    bytes += 2 * largest_part(*model);  // the file's pages and the working form
  }
  return bytes;
}

Result<DamageReport> damage_report(std::shared_ptr<const WeightSource> original,
                                   std::shared_ptr<const WeightSource> compressed, const DamageTokens& tokens,
                                   const Tokenizer* tokenizer, const DamageOptions& options,
                                   const std::function<Status(int64_t)>& advance) {
  PARE_ASSERT(!tokens.windows.empty(), "[damage_report] no windows");
  return DamageRun(tokens, tokenizer, options, advance).run(std::move(original), std::move(compressed));
}

}  // namespace pare
