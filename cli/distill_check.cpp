// Options of a training run that contradict each other; declared in distill_options.h.
#include <fmt/core.h>

#include "cli/distill_options.h"
#include "cli/distill_settings.h"
#include "engine/core/text.h"

namespace pare::cli {
namespace {

Status check_students(const DistillArguments& a) {
  if (!a.is_distill) return {};
  if (!a.model.empty() && !a.student_config.empty())
    return contradiction("--student", "cannot be given together with --student-config", a.model);
  if (a.model.empty() && a.student_config.empty() && a.qat.empty())
    return contradiction("--student", "give --student MODEL, --student-config FILE, or --qat SCHEME", "none");
  if (!a.student_config.empty() && a.lora > 0)
    return contradiction("--lora", "fresh weights cannot stay as they are", "--student-config");
  return {};
}

Status check_loss(const DistillArguments& a) {
  const bool has_states = a.hidden_loss != "none" || a.attention_loss;
  if (a.loss == "ce" && a.is_distill && !has_states)
    return contradiction("--loss", "with ce the teacher has no part; use pare finetune", "ce");
  if (a.jsd_beta != 0.5 && a.loss != "jsd")
    return contradiction("--jsd-beta", "belongs to --loss jsd", a.loss.empty() ? "no --loss" : a.loss);
  if (!a.layer_map.empty() && !has_states)
    return contradiction("--layer-map", "belongs to --hidden-loss and --attention-loss", a.layer_map);
  if (a.hidden_weight != 0.0 && !has_states)
    return contradiction("--hidden-weight", "belongs to --hidden-loss and --attention-loss",
                         fmt::format("{}", a.hidden_weight));
  if (a.relation_heads != 0 && !a.attention_loss)
    return contradiction("--relation-heads", "belongs to --attention-loss",
                         fmt::format("{}", a.relation_heads));
  if (has_states && !a.cache_teacher.empty())
    return contradiction("--cache-teacher",
                         "a cache holds no hidden states; leave --hidden-loss and "
                         "--attention-loss out",
                         a.cache_teacher);
  if (a.cache_teacher.empty() && a.tail != "bucket")
    return contradiction("--tail", "belongs to --cache-teacher", a.tail);
  if (!a.cache_teacher.empty() && a.tail != "bucket" && !a.loss.empty() && a.loss != "kl" &&
      a.loss != "ce+kl")
    return contradiction("--tail", "belongs to kl and ce+kl", a.loss);
  if (!a.cache_teacher.empty() && a.teacher_blocks != "whole")
    return contradiction("--teacher-blocks", "of a cached teacher only one block is in memory anyway",
                         a.teacher_blocks);
  return {};
}

Status check_trained(const DistillArguments& a) {
  if (!a.qat.empty() && a.lora > 0)
    return contradiction("--qat", "cannot be given together with --lora", a.qat);
  if (a.qat.empty() && a.qat_activations != "none")
    return contradiction("--qat-activations", "belongs to --qat", a.qat_activations);
  if (a.qat_activations == "static" && a.is_private())
    return contradiction("--qat-activations",
                         "takes its first scales from the data, which --dp-noise must hide",
                         a.qat_activations);
  if (a.qat.empty() && a.step_rate != 10.0)
    return contradiction("--step-rate", "belongs to --qat", fmt::format("{}", a.step_rate));
  if (a.lora == 0 && a.lora_alpha != 16.0)
    return contradiction("--lora-alpha", "belongs to --lora", fmt::format("{}", a.lora_alpha));
  if (!a.sparsity_schedule.empty() && a.lora > 0)
    return contradiction("--sparsity-schedule", "with --lora the matrices themselves stay as they are",
                         a.sparsity_schedule);
  if (!a.sparsity_schedule.empty()) {
    PARE_TRY(const SparsityPlan plan, SparsityPlan::parse(a.sparsity_schedule));
    if (a.steps && plan.end && *plan.end >= *a.steps)
      return contradiction("--sparsity-schedule", fmt::format("ends after the last of --steps {}", *a.steps),
                           a.sparsity_schedule);
    if (a.patience > 0)
      return contradiction("--patience",
                           "the best weights may be those before --sparsity-schedule removed any",
                           fmt::format("{}", a.patience));
  }
  if (!a.sparsity_schedule.empty() && a.keep_masks == "off")
    return contradiction("--keep-masks", "what --sparsity-schedule removes stays zero", "off");
  if (a.lora > 0 && a.keep_masks == "on")
    return contradiction("--keep-masks", "two factors added in fill zeros; leave --lora out", "on");
  return {};
}

Status check_training(const DistillArguments& a) {
  if (a.steps && a.minutes)
    return contradiction("--steps", "cannot be given together with --minutes", "both");
  if (!a.steps && !a.minutes) return contradiction("--steps", "give --steps N or --minutes M", "neither");
  if (a.micro_batch && a.batch % *a.micro_batch != 0)
    return contradiction("--micro-batch", fmt::format("does not divide --batch {}", a.batch),
                         fmt::format("{}", *a.micro_batch));
  if (a.decay_steps > 0 && a.schedule != "wsd")
    return contradiction("--decay-steps", "belongs to --schedule wsd", a.schedule);
  if (a.steps && a.warmup && *a.warmup > *a.steps)
    return contradiction("--warmup", fmt::format("more than --steps {}", *a.steps),
                         fmt::format("{}", *a.warmup));
  if (a.lr && a.lr_min && *a.lr_min > *a.lr)
    return contradiction("--lr-min", fmt::format("more than --lr {}", *a.lr), fmt::format("{}", *a.lr_min));
  return {};
}

Status check_watching(const DistillArguments& a) {
  const bool has_validation = !a.validate.empty() || a.validation_share > 0.0;
  if (a.patience > 0 && !has_validation)
    return contradiction("--patience", "needs validation data; give --validate or --validation-share",
                         "none");
  if (a.evaluate_every && !has_validation)
    return contradiction("--evaluate-every", "needs validation data; give --validate or --validation-share",
                         "none");
  return {};
}

Status check_privacy(const DistillArguments& a) {
  if (!a.is_private()) return {};
  if (!a.dp_clip || !a.dp_noise)
    return contradiction("--dp-clip", "private training needs --dp-clip and --dp-noise",
                         a.dp_clip ? "--dp-clip alone" : "no --dp-clip");
  if (a.is_distill && (a.hidden_loss != "none" || a.attention_loss))
    return contradiction("--dp-clip", "measures of hidden and attention losses are not private", "both");
  if (a.patience > 0)
    return contradiction("--patience", "stopping by the data is not private", fmt::format("{}", a.patience));
  if (!a.tensorboard.empty())
    return contradiction("--tensorboard", "losses of single steps are not private", a.tensorboard);
  return {};
}

}  // namespace

Status check_distill_arguments(const DistillArguments& arguments) {
  PARE_CHECK(check_job_arguments(arguments));
  PARE_CHECK(check_students(arguments));
  PARE_CHECK(check_training(arguments));
  PARE_CHECK(check_loss(arguments));
  PARE_CHECK(check_trained(arguments));
  PARE_CHECK(check_watching(arguments));
  PARE_CHECK(check_privacy(arguments));
  for (const std::string& file : arguments.files) {
    PARE_TRY(const WeightedFile parsed, parse_weighted_file(file));
    if (parsed.path == "-")
      return contradiction("--data", "training reads its data again when it is resumed; give a file", "-");
  }
  PARE_TRY(const CheckpointRule rule, parse_checkpoint_rule(arguments.checkpoint_every));
  static_cast<void>(rule);
  return {};
}

Result<WeightedFile> parse_weighted_file(const std::string& text) {
  const size_t equals = text.rfind('=');
  if (equals == std::string::npos) return WeightedFile{.path = text};
  const auto weight = parse_double(std::string_view(text).substr(equals + 1));
  if (!weight) return WeightedFile{.path = text};  // a name with "=" in it
  if (*weight > 0.0) return WeightedFile{.path = text.substr(0, equals), .weight = *weight};
  return Error{.exit = Exit::usage,
               .rule = "CL06",
               .path = "--data",
               .what = "not a weight",
               .got = text.substr(equals + 1),
               .limit = "a positive number",
               .limit_label = "expected"};
}

Result<CheckpointRule> parse_checkpoint_rule(const std::string& text) {
  const auto number = [&](size_t suffix) {
    return parse_double(std::string_view(text).substr(0, text.size() - suffix));
  };
  std::optional<double> seconds;
  if (text.ends_with("min")) {
    seconds = number(3);
    if (seconds) *seconds *= 60.0;
  } else if (text.ends_with("s")) {
    seconds = number(1);
  } else if (const auto steps = parse_int(text); steps && *steps >= 1) {
    return CheckpointRule{.seconds = 0.0, .steps = *steps};
  }
  if (seconds && *seconds > 0.0) return CheckpointRule{.seconds = *seconds, .steps = 0};
  return Error{.exit = Exit::usage,
               .rule = "CL06",
               .path = "--checkpoint-every",
               .what = "not a time and not a number of steps",
               .got = quote(text),
               .limit = "60s, 5min, 200",
               .limit_label = "expected"};
}

Result<std::string> compute_type(const DistillArguments& arguments, const CommonOptions& common) {
  const bool rounds = rounds_products(common);
  if (arguments.compute == "auto") return std::string(rounds ? "bf16" : "f32");
  if (arguments.compute == "f32" && rounds)
    return contradiction("--compute", "products on a GPU are bf16; say --gpu-math f32 too, or leave it out",
                         "f32");
  return arguments.compute;
}

Status check_distill_device(const DistillSettings& settings, const ModelConfig& student, Device device,
                            int ranks) {
  PARE_CHECK(check_training_device(device, settings.trainer, ranks));
  if (device.is_host()) return {};
  for (const BlockConfig& block : student.blocks) {
    if (!block.is_mixture()) continue;
    return Error{.exit = Exit::unsupported,
                 .path = "--student",
                 .what = "mixtures of experts are trained on hosts only",
                 .got = device.name(),
                 .limit = "--device cpu",
                 .limit_label = "expected"};
  }
  return {};
}

}  // namespace pare::cli
