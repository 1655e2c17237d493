// bench/gpu_decode.cpp: steps of decoding on a GPU, recorded and replayed by DecodeRunner, as a share of the
// time that streaming the weights takes. Models are made (gpu_models.h).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/cases.h"
#include "bench/gpu_models.h"
#include "bench/gpu_support.h"
#include "engine/core/random.h"
#include "engine/run/decode_runner.h"
#include "engine/run/sequence_runner.h"
#include "engine/tensor/transfer.h"

namespace pare::bench {
namespace {

// Of the largest logit: what rounded operands in other kernels may do to the choice between two ids.
constexpr double kBound = 3e-2;

// One model at a time: cases of the same model stand together. Its memory outlives every case.
Model& shared_model(const std::string& shape, const std::string& form) {
  static std::string loaded;
  static auto* const model = new std::unique_ptr<Model>();
  const std::string name = shape + "/" + form;
  (void)gpu();
  if (name != loaded) {
    *model = nullptr;
    *model = load_model(require(made_model(shape, form)), gpu_device());
    loaded = name;
  }
  return **model;
}

struct GpuDecoding {
  Model& model;
  int64_t rows, context, steps;
  std::vector<std::vector<int32_t>> prompts{};
  std::vector<Tensor> logits{};  // behind each prompt, f32 [1, vocabulary]
  KvCache cache{};
  std::unique_ptr<DecodeRunner> runner{};
  std::vector<std::vector<int32_t>> ids{};

  void prepare() {
    const ModelConfig& config = model.config();
    const int64_t capacity = context + steps + 2;
    if (const std::string why = DecodeRunner::why_not(model, capacity); !why.empty())
      give_up({.exit = Exit::unsupported, .what = why});
    DecodeBackend* decoding = gpu().decoding();
    if (decoding == nullptr) give_up({.exit = Exit::unsupported, .what = "no recorded steps on this device"});
    require(model.reserve_positions(capacity));
    cache = require(KvCache::allocate(config, rows, capacity, gpu_device()));
    const Batch batch{.sequences = 1, .tokens_per_sequence = context};
    Workspace workspace = require(Workspace::reserve(model.workspace_bytes(batch, 1), gpu_device()));
    Tensor hidden = require(Tensor::allocate(DType::f32, {context, config.hidden_size}, gpu_device()));
    Tensor tokens = require(Tensor::allocate(DType::i32, {context}));
    for (int64_t row = 0; row < rows; ++row) {
      const Random random(17, RandomPurpose::test_data, uint32_t(row));
      std::vector<int32_t> prompt;
      for (int64_t i = 0; i < context; ++i)
        prompt.push_back(int32_t(random.below(uint64_t(config.vocabulary_size), uint64_t(i))));
      std::ranges::copy(prompt, tokens.mutable_data<int32_t>());
      require(model.embed(tokens, batch, hidden, workspace));
      for (int i = 0; i < int(config.block_count()); ++i) {
        BlockCache own = cache.block(i);
        own.keys = own.keys.rows(row, row + 1);
        own.values = own.values.rows(row, row + 1);
        require(model.run_block(i, batch, hidden, &own, workspace));
      }
      Tensor out = require(Tensor::allocate(DType::f32, {1, config.vocabulary_size}, gpu_device()));
      require(model.run_head(hidden.rows(context - 1, context), out, workspace));
      require(gpu().finish());
      logits.push_back(std::move(out));
      prompts.push_back(std::move(prompt));
    }
    runner = require(DecodeRunner::create(model, cache, rows, *decoding));
    ids.assign(size_t(rows), std::vector<int32_t>(size_t(steps) + 1));
  }

  // Ids 0 .. steps of every row; each is read while the step behind it is under way.
  void run() {
    for (int64_t row = 0; row < rows; ++row)
      require(runner->start(row, prompts[size_t(row)], {}, logits[size_t(row)]));
    for (int64_t i = 0; i <= steps; ++i) {
      if (i < steps) require(runner->step(rows));
      for (int64_t row = 0; row < rows; ++row) ids[size_t(row)][size_t(i)] = require(runner->id(row, i));
    }
  }

  // Every id must be the best one where the whole sequence runs at once, or as good within the bound.
  double error() {
    run();
    double worst = 0.0;
    for (const int64_t row : {int64_t{0}, rows - 1}) {
      std::vector<int32_t> all = prompts[size_t(row)];
      all.insert(all.end(), ids[size_t(row)].begin(), ids[size_t(row)].end() - 1);
      worst = std::max(worst, sequence_error(all, ids[size_t(row)]));
    }
    return worst;
  }

  double sequence_error(const std::vector<int32_t>& all, const std::vector<int32_t>& chosen) {
    const ModelConfig& config = model.config();
    const auto count = int64_t(all.size()), wanted = int64_t(chosen.size());
    const Batch batch{.sequences = 1, .tokens_per_sequence = count};
    Workspace workspace = require(Workspace::reserve(model.workspace_bytes(batch, wanted), gpu_device()));
    Tensor tokens = require(Tensor::allocate(DType::i32, {count}));
    std::ranges::copy(all, tokens.mutable_data<int32_t>());
    Tensor hidden = require(Tensor::allocate(DType::f32, {count, config.hidden_size}, gpu_device()));
    require(model.embed(tokens, batch, hidden, workspace));
    for (int i = 0; i < int(config.block_count()); ++i)
      require(model.run_block(i, batch, hidden, nullptr, workspace));
    Tensor scores = require(Tensor::allocate(DType::f32, {wanted, config.vocabulary_size}, gpu_device()));
    require(model.run_head(hidden.rows(count - wanted, count), scores, workspace));
    const Tensor host = require(moved(scores, Device::cpu()));
    double worst = 0.0;
    for (int64_t i = 0; i < wanted; ++i) {
      const std::span values(host.data<float>() + i * config.vocabulary_size, size_t(config.vocabulary_size));
      const auto [low, high] = std::ranges::minmax(values);
      const double largest = std::max(std::fabs(double(low)), std::fabs(double(high)));
      if (!std::isfinite(largest) || !(largest > 0.0)) return 2.0;
      worst = std::max(worst, double(high - values[size_t(chosen[size_t(i)])]) / (kBound * largest));
    }
    return worst;
  }
};

// What both ways of decoding report.
Case described(const Model& model, const std::string& form, int64_t rows, int64_t context, int64_t steps) {
  Case c;
  c.bytes = double(steps) * bytes_per_token(model);
  c.operations = double(steps) * double(rows) * operations(model, {.sequences = 1, .tokens_per_sequence = 1});
  c.tokens = double(steps * rows);
  c.params["form"] = form;
  c.params["rows"] = rows;
  c.params["context"] = context;
  c.params["calls_per_sample"] = steps;
  c.params["bytes_per_token"] = bytes_per_token(model);
  c.params["cache_bytes_per_step"] = KvCache::bytes_for(model.config(), rows, context) / 2;  // bf16
  c.own_limit = gpu_limit(cuda::GpuProbe::copy);
  return c;
}

Case decode_case(const std::string& shape, const std::string& form, int64_t rows, int64_t context) {
  Model& model = shared_model(shape, form);
  auto d = std::make_shared<GpuDecoding>(
      GpuDecoding{.model = model, .rows = rows, .context = context, .steps = is_tiny() ? 4 : 64});
  d->prepare();
  // Twice: shapes run once by themselves before they are recorded, and kernels are known afterwards.
  d->run();
  d->run();
  Case c = described(model, form, rows, context, d->steps);
  c.kernel = "DecodeRunner";
  c.params["kernels_per_step"] = d->runner->kernels_per_step(rows);
  c.params["kernels_per_block"] =
      double(d->runner->kernels_per_step(rows)) / double(model.config().block_count());
  c.params["recordings"] = d->runner->recordings();
  c.params["notes"] = fmt::format("{}", fmt::join(d->runner->notes(), "; "));
  c.verify = [d] { return d->error(); };
  c.run = [d] { d->run(); };
  return c;
}

// One operation after the other, the next id chosen by the host: what recording saves.
struct OrdinaryDecoding {
  SequenceRunner runner;
  std::vector<int32_t> prompt;
  int64_t steps;
  double run() {
    runner.rewind(int64_t(prompt.size()) - 1);
    int32_t id = prompt.back();
    for (int64_t i = 0; i < steps; ++i) {
      require(runner.run(std::span(&id, 1)));
      const auto logits = runner.logits();
      id = int32_t(std::ranges::max_element(logits) - logits.begin());
    }
    return std::isfinite(double(runner.logits()[size_t(id)])) ? 0.0 : 2.0;
  }
};

Case ordinary_case(const std::string& shape, const std::string& form, int64_t context) {
  Model& model = shared_model(shape, form);
  const int64_t steps = is_tiny() ? 4 : 64;
  auto d = std::make_shared<OrdinaryDecoding>(
      OrdinaryDecoding{.runner = require(SequenceRunner::create(model, context, context + steps + 2)),
                       .prompt = {},
                       .steps = steps});
  const Random random(17, RandomPurpose::test_data);
  for (int64_t i = 0; i < context; ++i)
    d->prompt.push_back(int32_t(random.below(uint64_t(model.config().vocabulary_size), uint64_t(i))));
  require(d->runner.run(d->prompt));
  Case c = described(model, form, 1, context, steps);
  c.kernel = "SequenceRunner";
  c.verify = [d] { return d->run(); };
  c.run = [d] { (void)d->run(); };
  return c;
}

}  // namespace

std::vector<NamedCase> gpu_decode_cases() {
  std::vector<NamedCase> cases;
  const auto add = [&](const std::string& shape, std::initializer_list<int64_t> batches,
                       std::initializer_list<int64_t> contexts,
                       const std::vector<std::string>& headline_forms) {
    for (const char* form : {"bf16", "w8", "w4", "w4+head8", "w4+head4"}) {
      const bool is_wanted = std::ranges::find(headline_forms, form) != headline_forms.end();
      const bool is_best = std::string_view(form) == "w4+head4";
      for (const int64_t context : contexts) {
        for (const int64_t rows : batches) {
          const bool is_one = rows == 1 && context == *contexts.begin();
          const bool is_more = shape == "8B" && is_best && (rows == 1 || context == *contexts.begin());
          cases.push_back({fmt::format("decode/{}/{}/b{}/ctx{}", shape, form, rows, context),
                           [shape, form = std::string(form), rows, context] {
                             return decode_case(shape, form, rows, context);
                           },
                           is_wanted && (is_one || is_more)});
        }
      }
      if (is_best) {
        const int64_t context = *contexts.begin();
        cases.push_back(
            {fmt::format("decode/{}/{}/b1/ctx{}/graph_off", shape, form, context),
             [shape, form = std::string(form), context] { return ordinary_case(shape, form, context); },
             shape != "135M"});
      }
    }
  };
  if (is_tiny()) add("tiny", {1, 2}, {16}, {});
  add("8B", {1, 4, 16}, {128, 2048}, {"w4+head4", "w4", "bf16"});
  add("1B", {1, 4, 16}, {128, 2048}, {"w4+head4", "bf16"});
  add("135M", {1, 4, 16}, {128, 2048}, {"w4+head4", "bf16"});
  return cases;
}

}  // namespace pare::bench
