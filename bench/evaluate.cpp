// bench/evaluate.cpp: perplexity of a dense model through Model and evaluate(), beside PyTorch in float32 on
// the same tokens. One call is a group of disjoint windows: forward pass, head, cross entropy.
#include <fmt/format.h>

#include <cmath>

#include "bench/cases.h"
#include "bench/model_case.h"
#include "bench/torch_peer.h"
#include "evaluate/evaluate.h"

namespace pare::bench {
namespace {

constexpr int64_t kContext = 512;
constexpr int64_t kCallTokens = 512;
constexpr size_t kCheckedTokens = 16;  // the reference backend is slow
constexpr double kLossBound = 1e-4;    // of the mean loss, against PyTorch

struct Evaluation {
  std::unique_ptr<Model> model;
  std::vector<int32_t> ids;
  int64_t context = 0, call_tokens = 0;
  std::vector<EvaluationWindow> windows;
  std::unique_ptr<TorchPeer> torch;
  size_t turn = 0, peer_turn = 0;

  std::span<const int32_t> call_ids(size_t number) const {
    const size_t calls = ids.size() / size_t(call_tokens);
    return std::span(ids).subspan(number % calls * size_t(call_tokens), size_t(call_tokens));
  }
  double run() {
    return require(evaluate(*model, nullptr, call_ids(turn++), windows, {}, [](int64_t) {}))
        .perplexity.mean_nll;
  }
  double error() {
    double worst = logits_error(*model, std::span(ids).first(kCheckedTokens));
    if (torch != nullptr) {
      turn = 0;
      const double loss = torch->evaluate(call_ids(0), context, 1).loss;
      worst = std::max(worst, std::fabs(run() - loss) / kLossBound);
    }
    return worst;
  }
};

Case evaluate_case(const ModelInputs& inputs) {
  auto e = std::make_shared<Evaluation>();
  const auto source = open_source(inputs.model);
  e->model = load_model(source, Device::cpu());
  e->ids = token_ids(*source, inputs.text);
  e->context = std::min(kContext, e->model->config().max_positions);
  e->call_tokens = std::max(e->context, kCallTokens / e->context * e->context);
  if (int64_t(e->ids.size()) < e->call_tokens)
    give_up({.exit = Exit::malformed,
             .path = inputs.text,
             .what = "too short",
             .got = fmt::format("{} tokens", e->ids.size()),
             .limit = fmt::format("{}", e->call_tokens),
             .limit_label = "at least"});
  e->windows =
      require(evaluation_windows(e->call_tokens, {.protocol = Protocol::disjoint, .context = e->context}));
  if (!inputs.python.empty()) e->torch = TorchPeer::start(inputs.python, inputs.peer_script, inputs.model);

  const Batch batch{.sequences = e->call_tokens / e->context, .tokens_per_sequence = e->context};
  Case c{.kernel = "evaluate() " + weights_name(*source), .bytes = bytes_per_token(*e->model)};
  c.operations = operations(*e->model, batch);
  c.tokens = double(e->call_tokens);
  c.limit = Probe::cpu_fma_f32;
  c.params["model"] = base_name(inputs.model);
  c.params["weights"] = weights_name(*source);
  c.params["context"] = e->context;
  c.params["batch"] = batch.sequences;
  c.verify = [e] { return e->error(); };
  c.run = [e] { (void)e->run(); };
  if (e->torch != nullptr) {
    c.peer.name = e->torch->name();
    c.peer.version = e->torch->version();
    c.peer.timed = [e](int threads) {
      const TorchPeer::Answer answer = e->torch->evaluate(e->call_ids(e->peer_turn++), e->context, threads);
      return threads == 1 ? answer.processor_seconds : answer.seconds;
    };
  }
  return c;
}

}  // namespace

std::vector<NamedCase> evaluate_cases(const ModelInputs& inputs) {
  return {{fmt::format("eval/ppl/{}/f32", base_name(inputs.model)),
           [inputs] { return evaluate_case(inputs); }, true}};
}

}  // namespace pare::bench
