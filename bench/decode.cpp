// bench/decode.cpp: one token after the other through Session::generate, as a share of the time that
// streaming the weights takes. The prompt is one token, so every pass of a call has one row.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/cases.h"
#include "bench/model_case.h"
#include "engine/run/session.h"

namespace pare::bench {
namespace {

constexpr int64_t kTokens = 48;

struct Decoding {
  std::unique_ptr<Session> session;
  int32_t first_id = 0;

  std::vector<int32_t> run() {
    GenerateOptions options;
    options.max_new_tokens = kTokens;
    options.stop_at_eos = false;
    return require(session->generate(std::span(&first_id, 1), options, {})).ids;
  }

  // Every token must be the best one where the whole sequence runs at once, which takes other kernels; or as
  // good as the best one, within 1e-3 of the largest logit. The first tokens are held against the reference
  // backend too.
  double error() {
    std::vector<int32_t> ids = run();
    ids.insert(ids.begin(), first_id);
    ids.pop_back();
    const auto count = int64_t(ids.size());
    Tensor batch = require(Tensor::allocate(DType::i32, {count}));
    std::ranges::copy(ids, batch.mutable_data<int32_t>());
    const int64_t vocabulary = session->model().config().vocabulary_size;
    Tensor logits = require(Tensor::allocate(DType::f32, {count, vocabulary}));
    require(session->score(batch, {.sequences = 1, .tokens_per_sequence = count}, logits));
    double worst = 0.0;
    for (int64_t row = 0; row + 1 < count; ++row) {
      const std::span values(logits.data<float>() + row * vocabulary, size_t(vocabulary));
      const auto [low, high] = std::ranges::minmax(values);
      const double largest = std::max(std::fabs(double(low)), std::fabs(double(high)));
      worst = std::max(worst, double(high - values[size_t(ids[size_t(row) + 1])]) / (1e-3 * largest));
    }
    return std::max(worst, logits_error(session->model(), std::span(ids).first(4)));
  }
};

Case decode_case(const ModelInputs& inputs, const std::string& path) {
  auto d = std::make_shared<Decoding>();
  const auto source = open_source(path);
  d->first_id = token_ids(*source, inputs.text).at(0);
  d->session = require(Session::open(source, nullptr, Device::cpu()));
  Case c{.kernel = "Session::generate " + weights_name(*source)};
  c.bytes = double(kTokens) * bytes_per_token(d->session->model());
  c.operations =
      double(kTokens) * operations(d->session->model(), {.sequences = 1, .tokens_per_sequence = 1});
  c.tokens = double(kTokens);
  c.params["model"] = base_name(inputs.model);
  c.params["weights"] = weights_name(*source);
  c.params["bytes_per_token"] = bytes_per_token(d->session->model());
  c.verify = [d] { return d->error(); };
  c.run = [d] { (void)d->run(); };
  return c;
}

// Weights that stay in the last-level cache have nothing to stream; their name says so.
std::string temperature(const std::string& path) {
  const auto source = open_source(path);
  double bytes = 0.0;
  for (const StoredTensor& tensor : source->tensors()) bytes += double(tensor.bytes);
  return bytes < 2.0 * double(last_level_cache_bytes()) ? "/hot" : "";
}

}  // namespace

std::vector<NamedCase> decode_cases(const ModelInputs& inputs) {
  std::vector<NamedCase> cases;
  const auto add = [&](const std::string& path, const std::string& form) {
    cases.push_back({fmt::format("decode/{}/{}{}", base_name(inputs.model), form, temperature(path)),
                     [inputs, path] { return decode_case(inputs, path); }, true});
  };
  add(inputs.model, weights_name(*open_source(inputs.model)));
  for (const std::string& path : inputs.compressed) add(path, stem(path));
  return cases;
}

}  // namespace pare::bench
