#include "cli/distill_settings.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "distill/parameter_pieces.h"
#include "engine/core/text.h"
#include "prune/scores.h"
#include "prune/select.h"

namespace pare::cli {
namespace {

constexpr double kPeak = 1e-4, kPeakQat = 1e-5, kPeakFresh = 6e-4;
constexpr int64_t kLongestWarmup = 100;

Error bad_value(const char* option, const char* what, std::string got, std::string expected) {
  return Error{.exit = Exit::usage,
               .rule = "CL06",
               .path = option,
               .what = what,
               .got = std::move(got),
               .limit = std::move(expected),
               .limit_label = "expected"};
}

Result<LossConfig> loss_of(const DistillArguments& arguments, const StudentOrigin& origin) {
  const std::string name = !arguments.loss.empty()      ? arguments.loss
                           : !arguments.is_distill      ? "ce"
                           : origin.is_cut_from_teacher ? "kl"
                                                        : "ce+kl";
  PARE_TRY(const LossKind kind, loss_kind_from_name(name));
  LossConfig loss = LossConfig::defaults(kind, origin.is_cut_from_teacher);
  if (arguments.alpha) loss.alpha = *arguments.alpha;
  if (arguments.temperature) loss.temperature = *arguments.temperature;
  loss.squares_temperature = arguments.kd_t2 == "on";
  loss.beta = arguments.jsd_beta;
  PARE_TRY(loss.tail, teacher_tail_from_name(arguments.tail));
  PARE_CHECK(loss.validate());
  return loss;
}

Result<std::vector<int>> layers_of(const std::string& text) {
  std::vector<int> layers;
  for (size_t at = 0; at < text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    const auto number = parse_int(std::string_view(text).substr(at, comma - at));
    if (!number || *number < 0 || *number > 100'000)
      return bad_value("--layer-map", "not a list of layers", quote(text), "for example 0,1,3");
    layers.push_back(int(*number));
    at = comma + 1;
  }
  return layers;
}

Result<OptimizerConfig> optimizer_of(const DistillArguments& a) {
  OptimizerConfig config;
  PARE_TRY(config.kind, optimizer_kind_from_name(a.optimizer));
  config.beta1 = a.beta1;
  config.beta2 = a.beta2;
  config.eps = a.eps;
  config.momentum = a.momentum;
  config.decay = a.weight_decay;
  config.decays_embeddings = a.decay_embeddings;
  config.step_rate = a.step_rate;
  config.clip_norm = a.clip;
  config.shards_states = a.shard_optimizer;
  PARE_CHECK(config.validate());
  return config;
}

// "3:7:20" behind the share of a sparsity schedule.
Result<std::vector<int64_t>> steps_of(const std::string& text, const std::string& whole) {
  std::vector<int64_t> numbers;
  for (size_t at = 0; at <= text.size();) {
    const size_t colon = std::min(text.find(':', at), text.size());
    const auto number = parse_int(std::string_view(text).substr(at, colon - at));
    if (!number || *number < 0)
      return bad_value("--sparsity-schedule", "not a schedule", quote(whole), "0.5 or 0.5@100:800:20");
    numbers.push_back(*number);
    at = colon + 1;
  }
  if (numbers.size() < 2 || numbers.size() > 3 || numbers[1] < numbers[0] || numbers.back() < 1)
    return bad_value("--sparsity-schedule", "not a schedule", quote(whole), "0.5 or 0.5@100:800:20");
  return numbers;
}

}  // namespace

Result<SparsityPlan> SparsityPlan::parse(const std::string& text) {
  SparsityPlan plan;
  const size_t at = text.find('@');
  auto share = Sparsity::parse(std::string_view(text).substr(0, at));
  if (!share) {
    share.error().path = "--sparsity-schedule";
    return share.error();
  }
  plan.final = *share;
  if (at == std::string::npos) return plan;
  PARE_TRY(const std::vector<int64_t> numbers, steps_of(text.substr(at + 1), text));
  plan.begin = numbers[0];
  plan.end = numbers[1];
  if (numbers.size() == 3) plan.cuts = numbers[2];
  return plan;
}

CubicSchedule SparsityPlan::at_length(int64_t steps) const {
  // The last cut comes before the last step at the latest, and one cut always comes.
  const int64_t last = std::min(steps - 1, end.value_or(steps * 9 / 10));
  const int64_t first = std::min(begin.value_or(steps / 10), last - 1);
  CubicSchedule schedule;
  schedule.initial = Sparsity{};
  schedule.final = final;
  schedule.first_step = first;
  schedule.interval = (last - first + cuts - 1) / cuts;
  schedule.intervals = (last - first) / schedule.interval;
  return schedule;
}

Result<DistillSettings> distill_settings(const DistillArguments& arguments, const StudentOrigin& origin,
                                         uint64_t seed) {
  DistillSettings settings;
  TrainerOptions& trainer = settings.trainer;
  PARE_TRY(trainer.loss, loss_of(arguments, origin));
  PARE_TRY(trainer.intermediate.hidden, hidden_loss_kind_from_name(arguments.hidden_loss));
  PARE_TRY(trainer.intermediate.surviving_layers, layers_of(arguments.layer_map));
  trainer.intermediate.attention = arguments.attention_loss;
  trainer.intermediate.relation_heads = arguments.relation_heads;
  trainer.intermediate.weight = arguments.hidden_weight;
  PARE_TRY(trainer.optimizer, optimizer_of(arguments));
  PARE_TRY(trainer.schedule.shape, learning_rate_shape_from_name(arguments.schedule));
  trainer.batch = arguments.batch;
  trainer.scales_loss = arguments.compute == "f16";
  trainer.skip_bad_steps = arguments.skip_bad_steps;
  trainer.seed = seed;
  if (arguments.is_private())
    trainer.privacy = PrivateTraining{.clip = *arguments.dp_clip, .noise = *arguments.dp_noise};

  TrainingForm& form = settings.form;
  form.compute = arguments.compute == "bf16"  ? DType::bf16
                 : arguments.compute == "f16" ? DType::f16
                                              : DType::f32;
  form.seed = seed;
  form.lora_rank = arguments.lora;
  form.lora_alpha = float(arguments.lora_alpha);
  if (arguments.lora > 0) form.train_embeddings = form.train_norms = form.train_matrices = false;
  settings.keeps_masks =
      arguments.keep_masks == "on" || (arguments.keep_masks == "auto" && arguments.lora == 0 &&
                                       (origin.has_zeros || !arguments.sparsity_schedule.empty()));
  form.keep_zeros = settings.keeps_masks;
  if (!arguments.qat.empty()) {
    auto scheme = QuantScheme::parse(arguments.qat);
    if (!scheme) {
      scheme.error().path = "--qat";
      return scheme.error();
    }
    settings.scheme = *scheme;
  }
  if (!arguments.sparsity_schedule.empty()) {
    PARE_TRY(settings.sparsity, SparsityPlan::parse(arguments.sparsity_schedule));
  }
  PARE_TRY(settings.checkpoints, parse_checkpoint_rule(arguments.checkpoint_every));
  settings.lr = arguments.lr.value_or(!arguments.qat.empty() ? kPeakQat
                                      : origin.is_fresh      ? kPeakFresh
                                                             : kPeak);
  PARE_TRY(trainer.schedule, schedule_of(arguments, settings, arguments.steps.value_or(1)));
  return settings;
}

Result<LearningRateSchedule> schedule_of(const DistillArguments& arguments, const DistillSettings& settings,
                                         int64_t steps) {
  LearningRateSchedule schedule;
  PARE_TRY(schedule.shape, learning_rate_shape_from_name(arguments.schedule));
  schedule.peak = settings.lr;
  schedule.minimum = arguments.lr_min.value_or(settings.lr / 10.0);
  schedule.steps = steps;
  schedule.warmup = std::min(steps, arguments.warmup.value_or(std::min(kLongestWarmup, steps / 10)));
  schedule.decay_steps = std::min(arguments.decay_steps, steps - schedule.warmup);
  if (schedule.minimum > schedule.peak)
    return contradiction("--lr-min", fmt::format("more than the peak {}", schedule.peak),
                         fmt::format("{}", schedule.minimum));
  PARE_CHECK(schedule.validate());
  return schedule;
}

Json canonical_options(const DistillArguments& arguments, const DistillSettings& settings) {
  Json json = Json::object();
  if (arguments.steps) json["steps"] = *arguments.steps;
  if (arguments.minutes) json["minutes"] = *arguments.minutes;
  json["loss"] = settings.trainer.loss.to_json();
  if (settings.trainer.intermediate.enabled()) json["intermediate"] = settings.trainer.intermediate.to_json();
  json["batch"] = arguments.batch;
  if (arguments.micro_batch) json["micro_batch"] = *arguments.micro_batch;
  Json& rate = json["learning_rate"] = Json::object();
  rate["shape"] = arguments.schedule;
  rate["peak"] = settings.lr;
  rate["minimum"] = settings.trainer.schedule.minimum;
  if (arguments.warmup) rate["warmup"] = *arguments.warmup;
  if (arguments.decay_steps > 0) rate["decay_steps"] = arguments.decay_steps;
  json["optimizer"] = settings.trainer.optimizer.to_json();
  json["compute"] = arguments.compute;
  json["skip_bad_steps"] = arguments.skip_bad_steps;
  json["keep_masks"] = settings.keeps_masks;
  if (settings.sparsity) {
    Json& sparsity = json["sparsity_schedule"] = Json::object();
    sparsity["final"] = settings.sparsity->final.text();
    if (settings.sparsity->begin) sparsity["begin"] = *settings.sparsity->begin;
    if (settings.sparsity->end) sparsity["end"] = *settings.sparsity->end;
    sparsity["cuts"] = settings.sparsity->cuts;
  }
  if (arguments.lora > 0) {
    json["lora"] = arguments.lora;
    json["lora_alpha"] = arguments.lora_alpha;
  }
  if (settings.scheme) {
    json["qat"] = settings.scheme->text();
    json["qat_activations"] = arguments.qat_activations;
  }
  if (!arguments.cache_teacher.empty()) json["teacher_top_k"] = arguments.top_k;
  if (arguments.is_private()) {
    json["dp_clip"] = *arguments.dp_clip;
    json["dp_noise"] = *arguments.dp_noise;
  }
  json["patience"] = arguments.patience;
  if (arguments.patience > 0 && arguments.evaluate_every) json["evaluate_every"] = *arguments.evaluate_every;
  json["dtype"] = arguments.output.dense_dtype.empty() ? "as stored" : arguments.output.dense_dtype;
  return json;
}

Result<bool> cut_weights(const CubicSchedule& schedule, int64_t step, const ModelDescription& model,
                         const ParameterList& parameters) {
  if (!schedule.changes_at(step)) return false;
  const Sparsity share = schedule.at(step);
  for (const auto& parameter : parameters) {
    const TensorSpec* spec = model.find(parameter->name);
    if (spec == nullptr || !spec->is_linear || !parameter->is_matrix()) continue;
    PARE_TRY(const Tensor values, in_host_memory(parameter->value));
    PARE_TRY(const Tensor scores, magnitude_scores(values));
    const int64_t gone =
        parameter->mask == nullptr ? 0 : parameter->value.numel() - parameter->mask->kept_count();
    PARE_TRY(Mask mask, select_matrix(scores, std::max(gone, share.count(parameter->value.numel()))));
    parameter->mask = std::make_shared<const Mask>(std::move(mask));
  }
  return true;
}

}  // namespace pare::cli
