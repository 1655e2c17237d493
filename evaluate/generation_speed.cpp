#include "evaluate/generation_speed.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <vector>

#include "engine/core/assert.h"
#include "engine/core/text.h"
#include "engine/models/weight.h"
#include "engine/run/sequence_runner.h"
#include "evaluate/statistics.h"

namespace pare {
namespace {

constexpr int64_t kShortPrompt = 16;      // in front of decoded tokens
constexpr int64_t kLeastRepetitions = 5;  // quartiles of fewer say nothing
constexpr int64_t kLeastDecoded = 4;      // tokens of a repetition, however slow the model is
constexpr double kSmallestChange = 0.02;  // what the place of weights in memory alone can make
constexpr double kTick = 1e-9;            // seconds

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// What is run, the same for all models.
struct Plan {
  int64_t prompt = 0, first = 0, decoded = 0;  // tokens; decoding starts behind `first` of them
  int64_t capacity() const { return std::max(prompt, first + 1 + decoded); }
};

Result<Plan> plan_for(std::span<const Model* const> models, const SpeedOptions& options) {
  int64_t context = INT32_MAX;
  for (const Model* model : models) context = std::min(context, model->config().max_positions);
  if (context < kLeastDecoded) {
    return Error{.exit = Exit::unsupported,
                 .path = models.front()->source().path(),
                 .where = "context",
                 .what = "too short to measure the speed of generation",
                 .got = std::to_string(context),
                 .limit = std::to_string(kLeastDecoded),
                 .limit_label = "need"};
  }
  Plan plan;
  plan.prompt = std::clamp<int64_t>(options.prompt_tokens, 1, context);
  plan.first = std::clamp<int64_t>(kShortPrompt, 1, std::min(plan.prompt, context / 2));
  plan.decoded = std::clamp<int64_t>(options.decode_tokens, 1, context - plan.first - 1);
  return plan;
}

// One loaded model and the tokens it runs.
class Subject {
 public:
  static Result<Subject> load(std::unique_ptr<Model> model, const Plan& plan, int64_t vocabulary) {
    PARE_CHECK(model->load_all());
    PARE_TRY(SequenceRunner runner, SequenceRunner::create(*model, plan.prompt, plan.capacity()));
    Subject subject(std::move(model), std::move(runner), plan);
    // Any tokens do: the work does not depend on them.
    for (int64_t i = 0; i < plan.capacity(); ++i)
      subject.ids_.push_back(int32_t((i * 7919 + 13) % vocabulary));
    return subject;
  }

  Status prefill() {
    runner_.rewind(0);
    return runner_.run(std::span(ids_).first(size_t(plan_.prompt)));
  }
  // Behind the first tokens, which a prefill left in the cache.
  Status start_decoding() {
    runner_.rewind(plan_.first);
    return decode(1, 0);
  }
  Status decode(int64_t tokens, int64_t behind = 1) {
    for (int64_t i = 0; i < tokens; ++i)
      PARE_CHECK(runner_.run(std::span(ids_).subspan(size_t(plan_.first + behind + i), 1)));
    return {};
  }
  uint64_t loaded_bytes() const { return model_->loaded_bytes(); }

  std::vector<double> decode_seconds, prefill_seconds;

 private:
  Subject(std::unique_ptr<Model> model, SequenceRunner runner, const Plan& plan)
      : model_(std::move(model)), runner_(std::move(runner)), plan_(plan) {}
  std::unique_ptr<Model> model_;
  SequenceRunner runner_;
  Plan plan_;
  std::vector<int32_t> ids_;
};

template <typename Work>
Result<double> timed(const std::function<double()>& clock, Work work) {
  const double start = clock();
  PARE_CHECK(work());
  return clock() - start;
}

// Everything once, not counted: weights come into memory, and a slow model shows itself. Returns how many
// tokens a repetition decodes.
Result<int64_t> warm_up(std::vector<Subject>& subjects, const Plan& plan, const SpeedOptions& options,
                        const std::function<double()>& clock) {
  double slowest = 0.0;
  for (Subject& subject : subjects) {
    PARE_CHECK(subject.prefill());
    PARE_CHECK(subject.start_decoding());
    PARE_TRY(const double seconds, timed(clock, [&] { return subject.decode(1); }));
    slowest = std::max(slowest, seconds);
    if (options.advance) PARE_CHECK(options.advance());
  }
  // Half of the time is for decoding.
  const double share = options.max_seconds / (2.0 * double(options.repetitions) * double(subjects.size()));
  if (slowest * double(plan.decoded) <= share) return plan.decoded;
  return std::clamp<int64_t>(int64_t(share / slowest), std::min(kLeastDecoded, plan.decoded), plan.decoded);
}

Result<std::vector<ModelSpeed>> measure(std::span<const std::shared_ptr<const WeightSource>> sources,
                                        const SpeedOptions& options, Plan& plan) {
  PARE_ASSERT(options.repetitions > 0, "[speed] {} repetitions", options.repetitions);
  const std::function<double()> clock = options.seconds ? options.seconds : steady_seconds;
  uint64_t need = 0;
  for (const auto& source : sources) {
    PARE_TRY(const uint64_t bytes, speed_memory(source, options));
    need += bytes;
  }
  if (options.memory_limit > 0 && need > options.memory_limit) {
    return Error{.exit = Exit::resource,
                 .rule = "CL05",
                 .path = "memory",
                 .where = "speed",
                 .what = "not enough to load what is measured; raise --max-memory",
                 .got = format_bytes(options.memory_limit),
                 .limit = format_bytes(need),
                 .limit_label = "need"};
  }
  std::vector<std::unique_ptr<Model>> models;
  std::vector<const Model*> planned;
  int64_t vocabulary = INT64_MAX;
  for (const auto& source : sources) {
    PARE_TRY(auto model, Model::open(source, options.device));
    vocabulary = std::min(vocabulary, model->config().vocabulary_size);
    planned.push_back(model.get());
    models.push_back(std::move(model));
  }
  PARE_TRY(plan, plan_for(planned, options));
  std::vector<Subject> subjects;
  for (auto& model : models) {
    PARE_TRY(Subject subject, Subject::load(std::move(model), plan, vocabulary));
    subjects.push_back(std::move(subject));
  }

  const double start = clock();
  PARE_TRY(plan.decoded, warm_up(subjects, plan, options, clock));
  for (int64_t turn = 0; turn < options.repetitions; ++turn) {
    if (turn >= kLeastRepetitions && clock() - start > options.max_seconds) break;
    for (Subject& subject : subjects) {
      // Not counted: the other model's weights leave the caches.
      PARE_CHECK(subject.start_decoding());
      PARE_TRY(const double seconds, timed(clock, [&] { return subject.decode(plan.decoded); }));
      subject.decode_seconds.push_back(seconds);
      if (options.advance) PARE_CHECK(options.advance());
    }
    for (Subject& subject : subjects) {
      PARE_TRY(const double seconds, timed(clock, [&] { return subject.prefill(); }));
      subject.prefill_seconds.push_back(seconds);
      if (options.advance) PARE_CHECK(options.advance());
    }
  }
  std::vector<ModelSpeed> speeds;
  for (const Subject& subject : subjects)
    speeds.push_back({.decode = rate_of(subject.decode_seconds, plan.decoded),
                      .prefill = rate_of(subject.prefill_seconds, plan.prompt),
                      .loaded_bytes = subject.loaded_bytes()});
  return speeds;
}

}  // namespace

Rate rate_of(std::span<const double> seconds, int64_t tokens) {
  PARE_ASSERT(!seconds.empty(), "[speed] no repetition");
  std::vector<double> rates;
  for (const double duration : seconds) rates.push_back(double(tokens) / std::max(duration, kTick));
  std::sort(rates.begin(), rates.end());
  return {.median = quantile(rates, 0.5),
          .lower_quartile = quantile(rates, 0.25),
          .upper_quartile = quantile(rates, 0.75),
          .repetitions = int64_t(rates.size())};
}

double speed_ratio(const Rate& original, const Rate& compressed) {
  return original.median > 0.0 ? compressed.median / original.median : 0.0;
}

bool is_outside_noise(const Rate& original, const Rate& compressed) {
  const double ratio = speed_ratio(original, compressed);
  if (ratio >= 1.0 + kSmallestChange) return compressed.lower_quartile > original.upper_quartile;
  if (ratio <= 1.0 - kSmallestChange) return compressed.upper_quartile < original.lower_quartile;
  return false;
}

Result<uint64_t> speed_memory(const std::shared_ptr<const WeightSource>& source,
                              const SpeedOptions& options) {
  PARE_TRY(const auto model, Model::open(source, options.device));
  const Model* const models[] = {model.get()};
  PARE_TRY(const Plan plan, plan_for(models, options));
  uint64_t bytes = SequenceRunner::bytes_for(*model, plan.prompt, plan.capacity());
  for (const TensorSpec& spec : model->description().tensors) {
    const StoredTensor* stored = source->find(spec.name);
    if (stored == nullptr) continue;
    // A tied quantized embedding is kept twice, to look up and to multiply; norms and biases become f32, and
    // 8-bit floats bf16. Packing pads rows: a sixteenth covers what layouts add.
    const bool is_twice = stored->scheme && spec.role == Role::embedding && model->config().tied_head;
    const uint64_t as_floats = spec.shape.rank() < 2 ? 4 * uint64_t(spec.shape.numel()) : 0;
    const uint64_t as_bf16 = stored->scheme ? 0 : 2 * uint64_t(spec.shape.numel());
    const uint64_t one = std::max({Weight::planned_bytes(*stored), as_floats, as_bf16});
    bytes += one + one / 16 + (is_twice ? one + one / 16 : 0);
  }
  return bytes;
}

Result<ModelSpeed> measure_speed(const std::shared_ptr<const WeightSource>& source,
                                 const SpeedOptions& options) {
  Plan plan;
  const std::shared_ptr<const WeightSource> sources[] = {source};
  PARE_TRY(const auto speeds, measure(sources, options, plan));
  return speeds.front();
}

Result<SpeedComparison> compare_speed(const std::shared_ptr<const WeightSource>& original,
                                      const std::shared_ptr<const WeightSource>& compressed,
                                      const SpeedOptions& options) {
  Plan plan;
  const std::shared_ptr<const WeightSource> sources[] = {original, compressed};
  PARE_TRY(const auto speeds, measure(sources, options, plan));
  return SpeedComparison{.device = options.device.name(),
                         .prompt_tokens = plan.prompt,
                         .decode_tokens = plan.decoded,
                         .original = speeds[0],
                         .compressed = speeds[1]};
}

}  // namespace pare
