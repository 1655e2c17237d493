#include "cli/distill_summary.h"

#include <fmt/core.h>

#include <cmath>

#include "cli/backends.h"
#include "cli/model_argument.h"
#include "engine/core/text.h"
#include "evaluate/damage_json.h"

namespace pare::cli {
namespace {

std::string student_name(const DistillSummary& s) {
  return s.models.origin.is_fresh ? s.arguments.student_config : s.models.student->path();
}

// ln(perplexity / perplexity of the reference): what the student still lacks.
struct Excess {
  double before = 0.0, after = 0.0;
  // Share that is made up for; none where next to nothing was missing.
  std::optional<double> recovered() const {
    if (before < 1e-3) return std::nullopt;
    return 1.0 - after / before;
  }
};
std::optional<Excess> excess_of(const FinishedJob& done) {
  if (!done.damage || !done.damage_before) return std::nullopt;
  return Excess{.before = done.damage_before->damage.log_ratio, .after = done.damage->damage.log_ratio};
}

std::string loss_text(const DistillSummary& s) {
  const LossConfig& loss = s.settings.trainer.loss;
  std::string text(loss_kind_name(loss.kind));
  if (loss.needs_teacher()) {
    if (loss.alpha > 0.0) text += fmt::format(", {} of it cross entropy", loss.alpha);
    if (loss.temperature != 1.0) text += fmt::format(", temperature {}", loss.temperature);
  }
  if (s.settings.trainer.intermediate.hidden != HiddenLossKind::none)
    text += ", hidden states " + s.arguments.hidden_loss;
  if (s.settings.trainer.intermediate.attention) text += ", attention relations";
  return text;
}

std::string trained_text(const DistillSummary& s) {
  const DistillArguments& a = s.arguments;
  if (a.lora > 0)
    return fmt::format("two factors of rank {} beside each matrix, added in at the end", a.lora);
  std::string text = "all weights";
  if (s.settings.scheme) {
    text += ", rounded to " + s.settings.scheme->text() + " in every step";
    if (a.qat_activations != "none") text += " with inputs of 8 bits";
  }
  if (s.settings.keeps_masks && s.models.origin.has_zeros)
    text += "; the student was pruned: its zeros stay zero (--keep-masks off lets them grow)";
  if (s.settings.sparsity)
    text += fmt::format("; pruned to {} on the way", s.settings.sparsity->final.text());
  return text;
}

std::string teacher_text(const DistillSummary& s) {
  std::string text = s.arguments.teacher;
  if (!s.arguments.cache_teacher.empty())
    return text + fmt::format(", from its {} best ids per token in {}", s.arguments.top_k,
                              s.arguments.cache_teacher);
  return text + (s.arguments.teacher_blocks == "whole" ? "" : ", block by block");
}

std::string length_text(const DistillSummary& s) {
  const int64_t context = s.data.training->context(), tokens = s.arguments.batch * context;
  if (s.steps == 0)
    return fmt::format("as many steps of {} x {} tokens as fit into {} minutes", s.arguments.batch, context,
                       *s.arguments.minutes);
  const double epochs = double(s.steps * s.arguments.batch) / double(s.data.training->windows());
  return fmt::format("{} steps of {} x {} tokens, {} tokens in all, {:.2f} times the data", s.steps,
                     s.arguments.batch, context, format_count(uint64_t(s.steps * tokens)), epochs);
}

Json validations_json(const TrainingOutcome& outcome) {
  Json list = Json::array();
  for (const ValidationPoint& point : outcome.validations) {
    Json entry = Json::object();
    entry["step"] = point.step;
    entry["cross_entropy"] = point.cross_entropy;
    entry["perplexity"] = std::exp(point.cross_entropy);
    list.push_back(std::move(entry));
  }
  return list;
}

// --report: a line per tensor that was trained.
void print_trained(const Manifest& manifest) {
  Table table({"tensor", "stored as", ">bits", ">moved by"});
  for (const TensorRecord& record : manifest.tensors) {
    const Json* change = record.extra.find("relative_change");
    if (change == nullptr || !change->is_number()) continue;
    table.row({sanitize(record.name), record.scheme.empty() ? record.kind : record.scheme,
               record.bits_per_weight ? formatted(*record.bits_per_weight, "%.3f") : "",
               formatted(change->as_double(), "%.4f")});
  }
  print(table.text());
}

void print_models(const DistillSummary& s) {
  print_line(student_name(s) + " -> " + s.arguments.output.path);
  if (s.models.teacher != nullptr) print_line("  teacher " + teacher_text(s));
  print_line("  loss " + loss_text(s));
  print_line("  trained: " + trained_text(s));
  print_line("  " + length_text(s));
}

}  // namespace

Json distill_json(const DistillSummary& s, const FinishedJob* done) {
  Json json = Json::object();
  json["schema_version"] = 1;
  json["command"] = s.arguments.command();
  json["dry_run"] = s.arguments.dry_run;
  json["student"] = student_name(s);
  if (s.models.teacher != nullptr) json["teacher"] = s.arguments.teacher;
  json["output"] = s.arguments.output.path;
  json["options"] = canonical_options(s.arguments, s.settings);
  json["data"] = s.data.description;
  if (s.steps > 0) json["planned_steps"] = s.steps;
  json["tokens_per_step"] = s.arguments.batch * s.data.training->context();
  json["micro_batch"] = s.memory.micro_batch;
  json["recompute"] = !s.memory.keeps_blocks;
  json["trained_parameters"] = s.student_parameters;
  json["keep_masks"] = s.settings.keeps_masks;
  json["memory_estimate_bytes"] = Json(s.memory.need_bytes);
  json["output_estimate_bytes"] = Json(s.output_bytes);
  json["job_estimate_bytes"] = Json(s.job_bytes);
  if (s.cache) {
    Json& cache = json["teacher_cache"] = Json::object();
    cache["made"] = s.cache->was_made;
    cache["bytes"] = Json(s.cache->header.total_bytes());
    cache["bytes_per_token"] = s.cache->bytes_per_token();
  }
  if (s.outcome) {
    json["steps"] = s.outcome->steps;
    json["kept_step"] = s.outcome->best_step;
    json["skipped_bad_steps"] = s.outcome->bad_steps;
    json["ended"] = s.outcome->ended;
    if (s.outcome->resumed_at > 0) json["resumed_at_step"] = s.outcome->resumed_at;
    json["validations"] = validations_json(*s.outcome);
  }
  if (s.privacy) {
    Json& privacy = json["privacy"] = Json::object();
    privacy["epsilon"] = s.privacy->epsilon;
    privacy["delta"] = s.privacy_delta;
    privacy["order"] = s.privacy->order;
  }
  if (done == nullptr) return json;
  json["weight_bytes_before"] = Json(done->weight_bytes_before);
  json["weight_bytes_after"] = Json(done->weight_bytes_after);
  json["output_bytes"] = Json(done->output_bytes);
  json["seconds"] = done->seconds;
  add_peak_memory(json);
  json["manifest"] = done->manifest.to_json();
  if (done->damage_before) json["damage_before"] = to_json(*done->damage_before);
  if (done->damage) json["damage"] = to_json(*done->damage);
  if (const auto excess = excess_of(*done)) {
    Json& entry = json["log_perplexity_excess"] = Json::object();
    entry["before"] = excess->before;
    entry["after"] = excess->after;
    const auto recovered = excess->recovered();
    entry["recovered"] = recovered ? Json(*recovered) : Json();
  }
  if (done->speed) json["speed"] = to_json(*done->speed);
  if (!done->speed_note.empty()) json["speed_note"] = done->speed_note;
  return json;
}

void print_distill_plan(const DistillSummary& s) {
  print_models(s);
  print_line(fmt::format("  {} weights trained, {} windows at a time{}, memory about {}",
                         format_count(uint64_t(s.student_parameters)), s.memory.micro_batch,
                         s.memory.keeps_blocks ? "" : ", activations computed twice",
                         format_bytes(s.memory.need_bytes)));
  if (s.cache)
    print_line(fmt::format("  teacher cache about {}, {:.0f} bytes per token",
                           format_bytes(s.cache->header.total_bytes()), s.cache->bytes_per_token()));
  print_line(fmt::format("  output about {}, job folder about {}; nothing was written (--dry-run)",
                         format_bytes(s.output_bytes), format_bytes(s.job_bytes)));
}

void print_distill_outcome(const DistillSummary& s, const FinishedJob& done) {
  print_models(s);
  const TrainingOutcome& outcome = *s.outcome;
  if (s.memory.was_lowered)
    print_line(fmt::format("  memory was short: {} windows at a time{}", s.memory.micro_batch,
                           s.memory.keeps_blocks ? "" : ", activations computed twice"));
  if (s.cache)
    print_line(fmt::format("  teacher cache {}: {}, {:.0f} bytes per token",
                           s.cache->was_made ? "made" : "used again",
                           format_bytes(s.cache->header.total_bytes()), s.cache->bytes_per_token()));
  if (outcome.ended == "early stop")
    print_line(fmt::format("  stopped after {} steps, for validation was not better any more; kept: step {}",
                           outcome.steps, outcome.best_step));
  if (outcome.bad_steps > 0) print_line(fmt::format("  {} bad steps were left out", outcome.bad_steps));
  if (outcome.validations.size() >= 2)
    print_line(fmt::format("  validation: {:.4f} -> {:.4f} nats per token, perplexity {:.4f} -> {:.4f}",
                           outcome.validations.front().cross_entropy,
                           outcome.validations.back().cross_entropy,
                           std::exp(outcome.validations.front().cross_entropy),
                           std::exp(outcome.validations.back().cross_entropy)));
  if (s.privacy)
    print_line(fmt::format("  private: epsilon {:.4g} at delta {:.3g}, per window of the data",
                           s.privacy->epsilon, s.privacy_delta));
  if (done.damage_before && done.damage) {
    const DamageReport &before = *done.damage_before, &after = *done.damage;
    print_line(fmt::format("  perplexity on {} tokens ({}): teacher {:.4f}, student {:.4f} -> {:.4f}",
                           after.scored_tokens, sanitize(after.source), after.original.value,
                           before.compressed.value, after.compressed.value));
    const Excess excess = *excess_of(done);
    const auto recovered = excess.recovered();
    print_line(fmt::format(
        "  log-perplexity above the teacher {:.4f} -> {:.4f}{}, KL {:.5f} -> {:.5f}", excess.before,
        excess.after, recovered ? fmt::format(" ({:.1f} % recovered)", 100.0 * *recovered) : std::string(),
        before.damage.kl.value, after.damage.kl.value));
  } else if (done.damage) {
    print_damage(*done.damage);
  }
  if (s.arguments.report) print_trained(done.manifest);
  if (done.speed) print_line("  " + speed_line(*done.speed));
  if (!done.speed_note.empty()) print_line("  speed was not measured: " + done.speed_note);
  print_line(fmt::format("  weights {} -> {}, file {} in {}, peak memory {}",
                         format_bytes(done.weight_bytes_before), format_bytes(done.weight_bytes_after),
                         format_bytes(done.output_bytes), format_duration(done.seconds), peak_memory_text()));
  print_line(fmt::format("pare: done: {} steps of {} tokens", outcome.steps,
                         format_count(uint64_t(s.arguments.batch * s.data.training->context()))));
}

}  // namespace pare::cli
