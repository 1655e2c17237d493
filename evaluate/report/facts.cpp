#include "evaluate/report/facts.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "engine/core/text.h"

namespace pare::report {
namespace {

constexpr size_t kWorst = 8, kNamed = 8;

const Json* find(const TensorRecord& record, std::string_view key) {
  const Json* value = record.extra.find(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

std::optional<double> real(const TensorRecord& record, std::string_view key) {
  const Json* value = find(record, key);
  return value != nullptr && value->is_number() ? std::optional(value->as_double()) : std::nullopt;
}

bool is_set(const TensorRecord& record, std::string_view key) {
  const Json* value = find(record, key);
  if (value == nullptr) return false;
  return value->is_bool() ? value->as_bool() : value->is_number() && value->as_double() > 0.0;
}

// What has a column or a sentence of its own, and digests, which the manifest keeps.
bool has_own_place(std::string_view key) {
  return key == "output_error" || key == "rtn_output_error" || key == "xxh3_128" || key == "dequantized_from";
}

std::string notes_of(const TensorRecord& record) {
  std::string notes;
  for (const auto& [key, value] : record.extra.members()) {
    if (has_own_place(key) || value.is_null()) continue;
    std::string name = shown(key);
    std::replace(name.begin(), name.end(), '_', ' ');
    const bool is_flag = value.is_bool();
    if (is_flag && !value.as_bool()) continue;
    notes += fmt::format("{}{}{}{}", notes.empty() ? "" : "; ", name, is_flag ? "" : " ",
                         is_flag ? std::string() : value_text(value));
  }
  return notes;
}

// "3 matrices: a, b, c", at most kNamed names.
std::string named(const std::vector<std::string>& names) {
  std::string text = fmt::format("{} {}: ", names.size(), names.size() == 1 ? "matrix" : "matrices");
  for (size_t i = 0; i < std::min(names.size(), kNamed); ++i)
    text += fmt::format("{}{}", i > 0 ? ", " : "", names[i]);
  if (names.size() > kNamed) text += fmt::format(" and {} more", names.size() - kNamed);
  return text;
}

void find_matrices(const ReportInput& input, Facts& facts) {
  for (const ReportTensor& tensor : input.tensors) {
    if (tensor.record == nullptr) continue;
    const TensorRecord& record = *tensor.record;
    const bool was_kept = record.method_applied == "copy" && record.fallback.empty();
    if (was_kept || (record.scheme.empty() && !record.relative_error && record.fallback.empty())) continue;
    facts.matrices.push_back({.tensor = &tensor,
                              .output_error = real(record, "output_error"),
                              .rtn_output_error = real(record, "rtn_output_error"),
                              .notes = notes_of(record)});
    facts.by_output = facts.by_output || facts.matrices.back().output_error.has_value();
  }
  facts.error_name = facts.by_output ? "relative output error ‖(W−Ŵ)X‖ / ‖WX‖ on calibration data"
                                     : "relative weight error ‖W−Ŵ‖ / ‖W‖ (no calibration data)";
  for (size_t i = 0; i < facts.matrices.size(); ++i) facts.worst.push_back(i);
  std::stable_sort(facts.worst.begin(), facts.worst.end(), [&](size_t a, size_t b) {
    return facts.matrices[a].error(facts.by_output) > facts.matrices[b].error(facts.by_output);
  });
  facts.worst.resize(std::min(kWorst, facts.worst.size()));
  for (const MatrixRow& row : facts.matrices) {
    const ReportTensor& tensor = *row.tensor;
    if (tensor.block < 0 || tensor.block >= input.blocks || tensor.part.empty()) continue;
    auto series = std::find_if(facts.series.begin(), facts.series.end(),
                               [&](const Series& s) { return s.name == tensor.part; });
    if (series == facts.series.end())
      series = facts.series.insert(series, {.name = tensor.part, .points = {}, .plain = {}});
    series->points.emplace_back(tensor.block, row.error(facts.by_output));
    if (facts.by_output && row.rtn_output_error)
      series->plain.emplace_back(tensor.block, *row.rtn_output_error);
  }
}

void find_warnings(const ReportInput& input, Facts& facts) {
  std::vector<std::string> fallbacks;
  for (const TensorRecord& record : input.manifest.tensors)
    if (!record.fallback.empty())
      fallbacks.push_back(shown(record.name) + " (" + shown(record.fallback) + ")");
  if (!fallbacks.empty())
    facts.warnings.push_back("The method that was asked for was replaced in " + named(fallbacks));
  struct Flag {
    const char* key;
    const char* text;
  };
  for (const Flag& flag :
       {Flag{"heavily_damped", "Damped so much that the result is close to plain rounding, "},
        Flag{"damping_retries", "Damping had to be raised, "},
        Flag{"kept_rtn", "Plain rounding was better and was kept, "},
        Flag{"no_data", "No calibration activation reached "},
        Flag{"rank_deficient", "Fewer calibration tokens than input channels, "},
        Flag{"clamped_scales", "Scales were clamped to what their type holds, "},
        Flag{"activation_left_out", "The rounding of activations was left out of the file, "},
        Flag{"dead_columns", "Inputs that are always zero were removed from "}}) {
    std::vector<std::string> names;
    for (const TensorRecord& record : input.manifest.tensors) {
      const Json* value = find(record, flag.key);
      const bool is_text = value != nullptr && value->is_string() && !value->as_string().empty();
      if (is_text || is_set(record, flag.key)) names.push_back(shown(record.name));
    }
    if (!names.empty()) facts.warnings.push_back(flag.text + named(names));
  }
  if (!input.run) return;
  for (const std::string& warning : input.run->warnings) facts.warnings.push_back(shown(warning));
  if (input.run_is_stale)
    facts.warnings.push_back(
        "The report file beside the output was made for another output of this name: its figures below do "
        "not "
        "belong to these weights.");
}

void find_missing(const ReportInput& input, Facts& facts) {
  const std::string name = shown(input.name);
  const std::string remedy =
      fmt::format("`pare evaluate {} --reference ORIGINAL --data TEXT --report` measures the damage.", name);
  if (!input.run) {
    facts.missing.push_back(fmt::format(
        "No {}.report.json lies beside the output, so times, memory and measured damage are missing. `pare "
        "quantize` with calibration data writes it; {}",
        name, remedy));
  } else if (!input.run->damage) {
    facts.missing.push_back("The damage was not measured in this run. " + remedy);
  }
  if (!facts.by_output && !facts.matrices.empty())
    facts.missing.push_back(
        "No output errors were recorded: they need calibration data (`pare quantize --data TEXT`). Errors of "
        "weights are shown instead.");
}

void find_sizes(const ReportInput& input, Facts& facts) {
  uint64_t weight_bytes = 0;
  int64_t elements = 0;
  for (const ReportTensor& tensor : input.tensors) {
    const std::string label = tensor.block < 0               ? "embedding"
                              : tensor.block >= input.blocks ? "head"
                                                             : std::to_string(tensor.block);
    if (facts.sizes.empty() || facts.sizes.back().label != label)
      facts.sizes.push_back(
          {.label = label, .block = tensor.block, .bits_per_weight = 0, .bytes = 0, .elements = 0});
    facts.sizes.back().bytes += tensor.bytes;
    facts.sizes.back().elements += tensor.elements;
    weight_bytes += tensor.bytes;
    elements += tensor.elements;
  }
  for (BlockSize& size : facts.sizes)
    size.bits_per_weight = 8.0 * double(size.bytes) / double(std::max<int64_t>(1, size.elements));
  uint64_t before = 0;
  for (const Json& file : input.manifest.inputs.items()) {
    const Json *name = file.find("name"), *bytes = file.find("bytes");
    if (name == nullptr || !name->is_string() || bytes == nullptr || bytes->kind() != Json::Kind::integer ||
        bytes->as_int() < 0)
      continue;
    const std::string& text = name->as_string();
    if (text.ends_with(".safetensors") || text.ends_with(".pare") || text.ends_with(".gguf"))
      before += uint64_t(bytes->as_int());
  }
  if (input.run && input.run->weight_bytes_before > 0) before = input.run->weight_bytes_before;
  const double bits = 8.0 * double(weight_bytes) / double(std::max<int64_t>(1, elements));
  if (before > 0) facts.size_facts.push_back({"Weights before", format_bytes(before)});
  facts.size_facts.push_back({"Weights after", format_bytes(weight_bytes)});
  facts.size_facts.push_back({"Output on disk", format_bytes(input.output_bytes)});
  facts.size_facts.push_back({"Bits per weight, all tensors", number(bits)});
  double quantized_bits = 0.0, quantized = 0.0;
  for (const MatrixRow& row : facts.matrices) {
    if (!row.tensor->record->bits_per_weight) continue;
    quantized += double(row.tensor->elements);
    quantized_bits += double(row.tensor->elements) * *row.tensor->record->bits_per_weight;
  }
  if (quantized > 0.0)
    facts.size_facts.push_back(
        {"Bits per compressed weight, scales included", number(quantized_bits / quantized)});
  if (before > 0 && weight_bytes > 0)
    facts.key_figures.push_back(
        {"size of the weights", fmt::format("{} ({:.2f}× smaller)", format_bytes(weight_bytes),
                                            double(before) / double(weight_bytes))});
  facts.key_figures.push_back({"bits per weight", number(bits)});
}

void find_damage(const ReportInput& input, Facts& facts) {
  if (!input.run || !input.run->damage) return;
  const DamageReport& report = *input.run->damage;
  const Damage& damage = report.damage;
  facts.damage = {
      {"Perplexity, original", plus_minus(report.original.value, report.original.error)},
      {"Perplexity, compressed", plus_minus(report.compressed.value, report.compressed.error)},
      {"Difference (paired)", plus_minus(damage.delta_perplexity, damage.delta_perplexity_error)},
      {"ln(compressed / original) (paired)", plus_minus(damage.log_ratio, damage.log_ratio_error)},
      {"KL divergence, mean (nats per token)", plus_minus(damage.kl.value, damage.kl.error)},
      {"KL, median", number(damage.kl_median)},
      {"KL, 90 %", number(damage.kl_p90)},
      {"KL, 95 %", number(damage.kl_p95)},
      {"KL, 99 %", number(damage.kl_p99)},
      {"KL, 99.9 %", number(damage.kl_p999)},
      {"KL, largest", number(damage.kl_max)},
      {"Same best token (%)",
       plus_minus(100.0 * damage.top1_agreement.value, 100.0 * damage.top1_agreement.error)},
      {"Probability of the true token, mean change", number(damage.mean_probability_change)},
      {"Probability of the true token, RMS change", number(damage.rms_probability_change)},
      {"Perplexity error from windows, original", number(report.original.window_error)},
      {"Perplexity error from windows, compressed", number(report.compressed.window_error)},
      {"Mean nll, original", number(report.original.mean_nll)},
      {"Mean nll, compressed", number(report.compressed.mean_nll)},
  };
  facts.data = {
      {"Text", shown(report.source)},
      {"Windows", fmt::format("{} of {} tokens", format_count(uint64_t(report.windows)), report.context)},
      {"Tokens through the models", format_count(uint64_t(report.input_tokens))},
      {"Tokens scored", format_count(uint64_t(report.scored_tokens))},
      {"SHA-256 of the tokens", shown(report.token_hash)}};
  facts.key_figures.push_back(
      {"perplexity", fmt::format("{} → {}", number(report.original.value), number(report.compressed.value))});
  facts.key_figures.push_back({"KL, nats per token", plus_minus(damage.kl.value, damage.kl.error)});
  facts.key_figures.push_back(
      {"same best token", fmt::format("{:.2f} %", 100.0 * damage.top1_agreement.value)});
}

std::string spread(const Rate& rate) {
  return fmt::format("{} ({} to {})", number(rate.median), number(rate.lower_quartile),
                     number(rate.upper_quartile));
}

void find_speed(const ReportInput& input, Facts& facts) {
  if (!input.run || !input.run->speed) return;
  const SpeedComparison& speed = *input.run->speed;
  const ModelSpeed &before = speed.original, &after = speed.compressed;
  const std::string decode = rate_change_text(before.decode, after.decode, "→");
  facts.speed = {{"One token at a time", decode},
                 {fmt::format("Prompt of {} tokens", speed.prompt_tokens),
                  rate_change_text(before.prefill, after.prefill, "→")},
                 {"Weights in memory", fmt::format("{} → {}", format_bytes(before.loaded_bytes),
                                                   format_bytes(after.loaded_bytes))},
                 {"One token, original (quartiles)", spread(before.decode)},
                 {"One token, compressed (quartiles)", spread(after.decode)},
                 {"Prompt, original (quartiles)", spread(before.prefill)},
                 {"Prompt, compressed (quartiles)", spread(after.prefill)},
                 {"Measured", fmt::format("in turns, {} times {} tokens and {} times the prompt, on {}",
                                          before.decode.repetitions, speed.decode_tokens,
                                          before.prefill.repetitions, shown(speed.device))}};
  facts.key_figures.push_back({"one token at a time", decode});
}

void find_training(const ReportInput& input, Facts& facts) {
  if (!input.run || !input.run->training) return;
  const TrainingCurve& curve = *input.run->training;
  const auto first_to_last = [](const std::vector<TrainingPoint>& points) {
    return number(points.front().value) + " → " + number(points.back().value);
  };
  if (!curve.loss_name.empty()) facts.training.push_back({"Loss", shown(curve.loss_name)});
  facts.training.push_back({"Steps", format_count(uint64_t(curve.steps))});
  facts.training.push_back({"Tokens through the student", format_count(uint64_t(curve.input_tokens))});
  if (curve.seconds > 0.0) facts.training.push_back({"Time of the steps", format_duration(curve.seconds)});
  if (curve.tokens_per_second > 0.0) {
    std::string speed = number(curve.tokens_per_second) + " tokens/s";
    if (curve.peak_share > 0.0)
      speed +=
          fmt::format(" ({:.1f} % of what the processor can multiply and add)", 100.0 * curve.peak_share);
    facts.training.push_back({"Speed of training", std::move(speed)});
  }
  if (!curve.loss.empty()) facts.training.push_back({"Loss, first and last step", first_to_last(curve.loss)});
  if (!curve.cross_entropy.empty())
    facts.training.push_back({"Cross entropy, first and last step", first_to_last(curve.cross_entropy)});
  const auto before = curve.perplexity_before(), after = curve.perplexity_after();
  if (before && after) {
    const std::string change = number(*before) + " → " + number(*after);
    facts.training.push_back({"Held-out perplexity, before and after", change});
    facts.key_figures.push_back({"held-out perplexity, by training", change});
  } else if (after) {
    facts.training.push_back({"Held-out perplexity, after", number(*after)});
  }
}

void find_repeat(const ReportInput& input, Facts& facts) {
  const Manifest& manifest = input.manifest;
  if (input.run && !input.run->command_line.empty()) {
    std::string line = "pare";
    for (const std::string& word : input.run->command_line) {
      const bool is_plain =
          !word.empty() && word.find_first_of(" \t\n\"'\\$`*?[](){}<>|&;#~!") == std::string::npos;
      std::string quoted;
      for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
      line += is_plain ? fmt::format(" {}", word) : fmt::format(" '{}'", quoted);
    }
    // A report that `pare evaluate` made knows how the damage was measured, not how the output was made.
    const bool is_evaluation = input.run->command == "evaluate";
    facts.repeat.push_back({is_evaluation ? "Damage measured by" : "Command line", shown(line)});
  }
  facts.repeat.push_back({"Command", shown(manifest.command)});
  facts.repeat.push_back({"Program", "pare " + shown(manifest.program_version)});
  facts.repeat.push_back({"Seed", std::to_string(manifest.seed)});
  if (!manifest.arithmetic.empty()) facts.repeat.push_back({"Arithmetic", shown(manifest.arithmetic)});
  if (!input.run) return;
  const RunReport& run = *input.run;
  if (run.seconds > 0) facts.repeat.push_back({"Time", format_duration(run.seconds)});
  if (run.peak_resident_bytes > 0)
    facts.repeat.push_back({"Peak memory", format_bytes(run.peak_resident_bytes)});
  if (run.peak_device_bytes > 0)
    facts.repeat.push_back({"Peak memory of the GPU", format_bytes(run.peak_device_bytes)});
  if (run.threads > 0) facts.repeat.push_back({"Threads", std::to_string(run.threads)});
  if (!run.cpu_profile.empty()) facts.repeat.push_back({"CPU profile", shown(run.cpu_profile)});
  if (run.resumes > 0) facts.repeat.push_back({"Resumed", fmt::format("{} times", run.resumes)});
  for (const auto& [key, value] : run.extra.members()) {
    std::string name = shown(key);
    if (!name.empty() && name[0] >= 'a' && name[0] <= 'z') name[0] = char(name[0] - 'a' + 'A');
    facts.repeat.push_back({name, value_text(value)});
  }
}

}  // namespace

std::string shown(std::string_view text) {
  // sanitize() doubles backslashes, which sanitised text is full of; between them it changes nothing twice.
  std::string out;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('\\', begin), text.size());
    out += sanitize(text.substr(begin, end - begin));
    if (end < text.size()) out += '\\';
    begin = end + 1;
  }
  return out;
}

std::string number(double value) {
  if (std::isnan(value)) return "not a number";
  if (std::isinf(value)) return value > 0 ? "∞" : "−∞";
  if (value == 0.0) return "0";
  const double magnitude = std::fabs(value);
  return magnitude >= 1e4 && magnitude < 1e9 ? fmt::format("{:.0f}", value) : fmt::format("{:.4g}", value);
}

std::string plus_minus(double value, double error) {
  return number(value) + " ± " + number(error);
}

std::string value_text(const Json& value) {
  if (value.is_string()) return shown(value.as_string());
  if (value.kind() == Json::Kind::real) return number(value.as_double());
  if (!value.is_object()) return shown(value.dump());
  std::string text;
  for (const auto& [key, member] : value.members())
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", shown(key), value_text(member));
  return text;
}

double MatrixRow::error(bool by_output) const {
  return by_output ? output_error.value_or(0.0) : tensor->record->relative_error.value_or(0.0);
}

Facts gather(const ReportInput& input) {
  Facts facts;
  facts.title = shown(input.name);
  find_matrices(input, facts);
  find_warnings(input, facts);
  find_missing(input, facts);
  find_sizes(input, facts);
  find_damage(input, facts);
  find_speed(input, facts);
  find_training(input, facts);
  find_repeat(input, facts);
  const Manifest& manifest = input.manifest;
  std::string what;
  for (const char* key : {"scheme", "method"}) {
    const Json* value = manifest.options.find(key);
    if (value != nullptr && value->is_string())
      what += fmt::format("{}{}", what.empty() ? "" : " by ", shown(value->as_string()));
  }
  facts.subtitle = (what.empty() ? shown(manifest.command) : what) +
                   fmt::format(", {} compressed matrices, {} blocks", facts.matrices.size(), input.blocks);
  facts.key_figures.push_back({"fallbacks", std::to_string(manifest.fallbacks())});
  return facts;
}

}  // namespace pare::report
