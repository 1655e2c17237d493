#include "cli/job_damage.h"

#include <fmt/core.h>

#include <cmath>

#include "cli/evaluation_input.h"
#include "cli/model_argument.h"
#include "cli/text_data.h"
#include "engine/core/log.h"
#include "engine/core/progress.h"
#include "engine/core/signals.h"
#include "engine/core/text.h"
#include "engine/tokenizer/token_windows.h"

namespace pare::cli {
namespace {

const std::vector<std::string> kMetrics = {"perplexity", "ratio", "delta", "kl", "kl_p99", "kl_max", "top1"};

double metric(const DamageReport& report, const std::string& name) {
  const Damage& damage = report.damage;
  if (name == "perplexity") return report.compressed.value;
  if (name == "ratio") return std::exp(damage.log_ratio);
  if (name == "delta") return damage.delta_perplexity;
  if (name == "kl") return damage.kl.value;
  if (name == "kl_p99") return damage.kl_p99;
  if (name == "kl_max") return damage.kl_max;
  return damage.top1_agreement.value;
}

}  // namespace

Result<std::vector<Gate>> report_gates(const JobArguments& arguments) {
  std::vector<Gate> gates;
  for (const std::string& text : arguments.fail_if) {
    PARE_TRY(Gate gate, parse_gate(text, kMetrics));
    gates.push_back(std::move(gate));
  }
  if (!gates.empty() && arguments.no_report) {
    return Error{.exit = Exit::usage,
                 .rule = "CL13",
                 .path = "--fail-if",
                 .where = {},
                 .what = "cannot be given together with --no-report",
                 .got = gates.front().text,
                 .limit = {}};
  }
  if (!gates.empty() && arguments.data.empty() && arguments.report_data.empty()) {
    return Error{.exit = Exit::usage,
                 .rule = "CL13",
                 .path = "--fail-if",
                 .where = {},
                 .what = "nothing to measure the damage on; give --report-data FILE",
                 .got = gates.front().text,
                 .limit = {}};
  }
  return gates;
}

Result<Device> device_of_report(const WeightSource& original, const WeightSource& compressed,
                                const DamageTokens& tokens, const CommonOptions& common) {
  PARE_TRY(const Device device, chosen_device(common));
  if (device.is_host()) return Device::cpu();
  PARE_TRY(const uint64_t need, damage_report_bytes(original, compressed, tokens, {.device = device}));
  PARE_TRY(const uint64_t limit, memory_limit(common, device));
  if (need <= limit) return device;
  log_warning(fmt::format("the damage is measured on the CPU: it takes {} of {}, which has {}",
                          format_bytes(need), device.name(), format_bytes(limit)));
  return Device::cpu();
}

Result<DamageReport> measure_damage(const JobArguments& arguments, const CommonOptions& common,
                                    std::shared_ptr<const WeightSource> original,
                                    std::shared_ptr<const WeightSource> compressed,
                                    const CalibrationWindows& windows, const std::string& windows_source,
                                    const std::function<Status()>& advance) {
  PARE_TRY(const auto tokenizer, load_tokenizer(*original));
  PARE_TRY(const ModelDescription model, describe_model(*original));
  DamageTokens tokens;
  EvaluationInput input;
  if (arguments.report_data.empty()) {
    tokens = damage_tokens(windows.ids, windows.context, windows.samples, windows_source);
    tokens.token_hash = token_hash(windows.ids);
  } else {
    PARE_TRY(const TextData text, read_text_data(arguments.report_data));
    EvaluationInputOptions options;
    options.protocol.context = windows.context;
    options.max_tokens = arguments.report_tokens;
    PARE_TRY(input, make_evaluation_input(text, *tokenizer, model.config, options));
    tokens.ids = input.ids;
    tokens.windows = input.windows;
    tokens.bos_id = input.bos_id;
    tokens.source = short_name(arguments.report_data);
    tokens.token_hash = token_hash(input.ids);
  }
  PARE_TRY(const ModelDescription after, describe_model(*compressed));
  DamageOptions damage_options;
  PARE_TRY(damage_options.device, device_of_report(*original, *compressed, tokens, common));
  int64_t total = 0;
  for (const EvaluationWindow& window : tokens.windows) total += window.length;
  Progress progress("report", total * (model.config.block_count() + after.config.block_count()), "tokens");
  return damage_report(original, compressed, tokens, tokenizer.get(), damage_options,
                       [&](int64_t done) -> Status {
                         progress.advance(done);
                         return advance();
                       });
}

void print_damage(const DamageReport& report) {
  const Damage& damage = report.damage;
  print_line("  damage on " + std::to_string(report.scored_tokens) + " tokens (" + sanitize(report.source) +
             "): KL " + formatted(damage.kl.value, "%.5f") + " +- " + formatted(damage.kl.error, "%.5f") +
             " nats, same best token " + formatted(100.0 * damage.top1_agreement.value, "%.2f %%") +
             ", perplexity " + formatted(report.original.value, "%.4f") + " -> " +
             formatted(report.compressed.value, "%.4f") + " (" + formatted(damage.delta_perplexity, "%+.4f") +
             " +- " + formatted(damage.delta_perplexity_error, "%.4f") + ")");
}

Status check_gates(const std::vector<Gate>& gates, const DamageReport& damage, const std::string& path) {
  for (const Gate& gate : gates) {
    const double value = metric(damage, gate.metric);
    if (!gate.fails(value)) continue;
    return Error{.exit = Exit::gate,
                 .rule = {},
                 .path = path,
                 .where = "--fail-if",
                 .what = gate.text + " holds",
                 .got = formatted(value, "%.6g"),
                 .limit = {}};
  }
  return {};
}

}  // namespace pare::cli
