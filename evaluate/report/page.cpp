// The report as one page that needs nothing but itself: no script, no font, no picture, no address.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "engine/core/text.h"
#include "evaluate/report/facts.h"
#include "evaluate/report/html.h"
#include "evaluate/report/plots.h"

namespace pare {
namespace {

using namespace report;

constexpr std::string_view kKey =
    "<ul class=\"key\"><li><svg viewBox=\"0 0 32 12\" aria-hidden=\"true\"><path class=\"{}\" "
    "d=\"{}\"/>{}</svg>{}</li>"
    "<li><svg viewBox=\"0 0 32 12\" aria-hidden=\"true\"><path class=\"{}\" d=\"{}\"/>{}</svg>{}</li></ul>\n";

std::string item_list(const std::vector<std::string>& items) {
  std::string out = "<ul>\n";
  for (const std::string& item : items) out += "<li>" + escape(item) + "</li>\n";
  return out + "</ul>\n";
}

std::string fact_list(const std::vector<Fact>& facts) {
  std::string out = "<dl class=\"facts\">\n";
  for (const Fact& fact : facts)
    out += "<dt>" + escape(fact.name) + "</dt><dd>" + escape(fact.value) + "</dd>\n";
  return out + "</dl>\n";
}

std::string figure(const std::string& caption, const std::string& detail, const std::string& plot) {
  return "<figure><figcaption><b>" + escape(caption) + "</b>" + (detail.empty() ? "" : " " + escape(detail)) +
         "</figcaption>" + plot + "</figure>\n";
}

std::string head(const Facts& facts) {
  std::string out =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<meta name=\"referrer\" content=\"no-referrer\"/>\n"
      // Nothing may be fetched and nothing may run, whatever a name in a file tries.
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'\"/>\n";
  out += "<title>" + escape(facts.title) + ": compression report</title>\n<style>" +
         std::string(style_sheet()) + "</style>\n</head>\n<body>\n<main>\n<header>\n<h1>" +
         escape(facts.title) + "</h1>\n<p class=\"sub\">" + escape(facts.subtitle) + "</p>\n</header>\n";
  if (!facts.warnings.empty()) {
    out += "<section class=\"warn\" aria-labelledby=\"warnings\"><h2 id=\"warnings\">Know this first</h2>\n" +
           item_list(facts.warnings) + "</section>\n";
  }
  out += "<dl class=\"tiles\">\n";
  for (const Fact& fact : facts.key_figures)
    out += "<div><dt>" + escape(fact.name) + "</dt><dd>" + escape(fact.value) + "</dd></div>\n";
  out += "</dl>\n";
  if (!facts.missing.empty()) out += "<div class=\"missing\">" + item_list(facts.missing) + "</div>\n";
  return out;
}

std::string damage_section(const Facts& facts) {
  if (facts.damage.empty()) return {};
  const Column columns[] = {{"Measure", false}, {"Value ± standard error", true}};
  std::vector<std::vector<std::string>> rows;
  for (const Fact& fact : facts.damage) rows.push_back({fact.name, fact.value});
  return "<h2>Damage</h2>\n<p>Both models read the same tokens. Paired errors compare the two token by token "
         "and are "
         "the ones to judge a difference by.</p>\n<div class=\"narrow\">\n" +
         html_table("Damage against the original", columns, rows) + "</div>" + fact_list(facts.data);
}

std::string speed_section(const Facts& facts) {
  if (facts.speed.empty()) return {};
  return "<h2>Speed on this device</h2>\n<p>Both models in turns, tokens per second; medians, with the "
         "quartiles between which half of the repetitions lie.</p>\n" +
         fact_list(facts.speed);
}

std::vector<StepPoint> step_points(const std::vector<TrainingPoint>& points) {
  std::vector<StepPoint> out;
  for (const TrainingPoint& point : points) out.push_back({double(point.step), point.value});
  return out;
}

std::string training_section(const ReportInput& input, const Facts& facts) {
  if (facts.training.empty()) return {};
  const TrainingCurve& curve = *input.run->training;
  const bool is_cross_entropy = curve.cross_entropy.empty();
  const auto plot = [](const std::string& name, const std::vector<TrainingPoint>& training,
                       const std::vector<TrainingPoint>& held_out) {
    return figure(
        name, "nats per token, by step",
        step_plot({.title = name + " by step of training",
                   .description = "Line: training, each stretch with its smallest and largest value. "
                                  "Dashed, with rings: held-out text.",
                   .x_label = "step",
                   .y_label = "nats per token"},
                  step_points(training), step_points(held_out)));
  };
  std::string out = "<h2>Training</h2>\n";
  if (!curve.loss.empty() || !curve.validation.empty()) {
    out += fmt::format(kKey, "ours", "M0 6H32", "", "training", "plain", "M0 6H32",
                       "<circle class=\"ring\" cx=\"16\" cy=\"6\" r=\"3\"/>", "held-out text") +
           "<div class=\"plots\">\n";
    const std::string name = curve.loss_name.empty() ? "loss" : "loss: " + shown(curve.loss_name);
    out += is_cross_entropy ? plot("cross entropy", curve.loss, curve.validation)
                            : plot(name, curve.loss, curve.validation_loss) +
                                  plot("cross entropy", curve.cross_entropy, curve.validation);
    out += "</div>\n";
  }
  out += fact_list(facts.training);
  if (curve.validation.empty()) return out;
  const Column columns[] = {{"After step", true}, {"Cross entropy", true}, {"Perplexity", true}};
  std::vector<std::vector<std::string>> rows;
  for (const TrainingPoint& point : curve.validation)
    rows.push_back({std::to_string(point.step), number(point.value), number(std::exp(point.value))});
  return out + "<details><summary>Held-out text by step</summary>\n<div class=\"narrow\">\n" +
         html_table("Held-out text, nats per token", columns, rows) + "</div></details>\n";
}

std::string error_section(const ReportInput& input, const Facts& facts) {
  if (facts.series.empty() && !(input.run && input.run->damage)) return {};
  std::string out = "<h2>Error per layer</h2>\n";
  double top = 0.0;
  bool has_plain = false;
  for (const Series& series : facts.series) {
    for (const auto& points : {series.points, series.plain})
      for (const auto& [block, value] : points) top = std::isfinite(value) ? std::max(top, value) : top;
    has_plain = has_plain || !series.plain.empty();
  }
  if (!facts.series.empty())
    out += "<p>Each matrix by block: " + escape(facts.error_name) + ". All plots share one scale.</p>\n";
  if (has_plain) {
    out +=
        fmt::format(kKey, "ours", "M0 6H32", "<circle class=\"mark\" cx=\"16\" cy=\"6\" r=\"3\"/>",
                    "this output", "plain", "M0 6H32", "<circle class=\"ring\" cx=\"16\" cy=\"6\" r=\"3\"/>",
                    "plain rounding (RTN) on the same grid");
  }
  out += "<div class=\"plots\">\n";
  for (const Series& series : facts.series) {
    double sum = 0.0, plain = 0.0;
    for (const auto& [block, value] : series.points) sum += value;
    for (const auto& [block, value] : series.plain) plain += value;
    const double mean = sum / double(std::max<size_t>(1, series.points.size()));
    std::string detail = "mean " + number(mean);
    if (!series.plain.empty()) detail += ", RTN " + number(plain / double(series.plain.size()));
    out += figure(series.name, detail,
                  line_plot({.title = series.name + ": error by block",
                             .description = facts.error_name + " of " + series.name + ", " + detail + ".",
                             .x_label = "block",
                             .y_label = "error"},
                            series.points, series.plain, input.blocks, top));
  }
  if (input.run && input.run->damage && !input.run->damage->blocks.empty()) {
    Points points;
    for (const BlockDamage& block : input.run->damage->blocks)
      points.emplace_back(block.block, block.relative_error);
    const double last = points.empty() ? 0.0 : points.back().second;
    out += figure(
        "hidden states", "‖h − h₀‖ / ‖h₀‖ after each block, " + number(last) + " after the last",
        line_plot({.title = "Hidden states: relative error after each block",
                   .description = "Both models run from their own embedding; errors add up from block to "
                                  "block.",
                   .x_label = "block",
                   .y_label = "relative error"},
                  points, {}, input.blocks, 0.0));
  }
  return out + "</div>\n";
}

std::string size_section(const ReportInput& input, const Facts& facts) {
  std::string out = "<h2>Bits and size</h2>\n<div class=\"plots\">\n";
  std::vector<std::pair<std::string, double>> bars;
  for (const BlockSize& size : facts.sizes)
    if (size.block >= 0 && size.block < input.blocks) bars.emplace_back(size.label, size.bits_per_weight);
  out +=
      figure("bits per weight by block", "everything a block stores, norms included",
             bar_plot({.title = "Bits per weight of each block",
                       .description = "Stored bits of all tensors of a block over their number of weights.",
                       .x_label = "block",
                       .y_label = "bits per weight"},
                      bars));
  uint64_t before = input.run ? input.run->weight_bytes_before : 0, after = 0;
  for (const BlockSize& size : facts.sizes) after += size.bytes;
  std::vector<WideBar> sizes;
  for (const Fact& fact : facts.size_facts) {
    const auto bytes = parse_bytes(fact.value);
    if (fact.name == "Weights before" && (before > 0 || bytes))
      sizes.push_back({"before", fact.value, double(before > 0 ? before : *bytes)});
  }
  sizes.push_back({"after", format_bytes(after), double(after)});
  out += figure("size of the weights", "",
                wide_bar_plot({.title = "Size of the weights before and after",
                               .description = "Bytes of all tensors.",
                               .x_label = "",
                               .y_label = ""},
                              sizes));
  if (input.run && !input.run->curve.empty()) {
    std::vector<CurveMark> marks;
    for (const CurvePoint& point : input.run->curve)
      marks.push_back({point.bits_per_weight, point.loss, point.chosen});
    out += figure("what a size would cost", "the filled point was chosen",
                  curve_plot({.title = "Loss by bits per weight",
                              .description = "Each point is the best choice of bits found for its size.",
                              .x_label = "bits per weight",
                              .y_label = shown(input.run->curve_unit)},
                             marks));
  }
  out += "</div>\n" + fact_list(facts.size_facts);
  const Column columns[] = {{"Part", false}, {"Weights", true}, {"Bytes", true}, {"Bits per weight", true}};
  std::vector<std::vector<std::string>> rows;
  for (const BlockSize& size : facts.sizes) {
    const bool is_block = size.block >= 0 && size.block < input.blocks;
    rows.push_back({is_block ? "block " + size.label : size.label, format_count(uint64_t(size.elements)),
                    format_count(size.bytes), number(size.bits_per_weight)});
  }
  out += "<details><summary>Size of every part</summary>\n" +
         html_table("Size of every part", columns, rows) + "</details>\n";
  if (input.run && !input.run->curve.empty()) {
    const Column curve_columns[] = {{"Bits per weight", true}, {"Loss", true}, {"", false}};
    std::vector<std::vector<std::string>> points;
    for (const CurvePoint& point : input.run->curve)
      points.push_back({number(point.bits_per_weight), number(point.loss), point.chosen ? "chosen" : ""});
    out += "<details><summary>Points of the curve</summary>\n" +
           html_table("Loss by size, " + shown(input.run->curve_unit), curve_columns, points) +
           "</details>\n";
  }
  return out;
}

std::string worst_section(const ReportInput& input) {
  if (!input.run || !input.run->damage || input.run->damage->worst.empty()) return {};
  const Column columns[] = {{"KL", true},
                            {"Text, token in brackets", false, true},
                            {"Original would say", false},
                            {"This would say", false},
                            {"nll, original", true},
                            {"nll, this", true},
                            {"Position", true},
                            {"Window", true},
                            {"In window", true},
                            {"Id", true}};
  std::vector<std::vector<std::string>> rows;
  for (const WorstToken& worst : input.run->damage->worst)
    rows.push_back({number(worst.kl), "…" + shown(worst.context) + " [" + shown(worst.token) + "]",
                    shown(worst.original_best), shown(worst.compressed_best), number(worst.original_nll),
                    number(worst.nll), std::to_string(worst.position), std::to_string(worst.window),
                    std::to_string(worst.position_in_window), std::to_string(worst.id)});
  return "<h2>Worst tokens</h2>\n<p>Where the two models disagree most, with the text in front of it.</p>\n" +
         html_table("Tokens with the largest KL divergence", columns, rows);
}

const WeightDamage* weights_of(const ReportInput& input, const std::string& name) {
  for (const WeightDamage& weight : input.run->damage->weights)
    if (weight.name == name) return &weight;
  return nullptr;
}

std::string weight_figure(const WeightDamage& weight, const std::string& scheme) {
  return figure(
      shown(weight.name),
      scheme + ", largest |w| " + number(weight.original.largest) + " → " + number(weight.compressed.largest),
      value_plot({.title = "Weights of " + shown(weight.name),
                  .description = "Share of weights by value, before (filled) and after (line).",
                  .x_label = "weight",
                  .y_label = "share of weights"},
                 weight.original, weight.compressed));
}

double root_mean_square(const MagnitudeHistogram& histogram) {
  return std::sqrt(histogram.square_sum / double(std::max<uint64_t>(1, histogram.total())));
}

std::string site_figure(const SiteDamage& site) {
  const std::string name = fmt::format("block {} {}", site.block, site_name(site.site));
  return figure(
      name,
      "largest |x| " + number(site.original.largest) + " → " + number(site.compressed.largest) + ", RMS " +
          number(root_mean_square(site.original)) + " → " + number(root_mean_square(site.compressed)),
      magnitude_plot({.title = "Activations at " + name,
                      .description = "Share of values by magnitude, before (filled) and after (line).",
                      .x_label = "|x|",
                      .y_label = "share of values"},
                     site.original, site.compressed));
}

// Largest value over root mean square, by block: what makes activations hard to round.
std::string outlier_plots(const ReportInput& input) {
  std::string out;
  for (const Site site : {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_out}) {
    Points before, after;
    for (const SiteDamage& entry : input.run->damage->sites) {
      if (entry.site != site) continue;
      const double old_rms = root_mean_square(entry.original), new_rms = root_mean_square(entry.compressed);
      before.emplace_back(entry.block, old_rms > 0.0 ? entry.original.largest / old_rms : 0.0);
      after.emplace_back(entry.block, new_rms > 0.0 ? entry.compressed.largest / new_rms : 0.0);
    }
    if (after.empty()) continue;
    out += figure(std::string(site_name(site)), "largest |x| over RMS, by block",
                  line_plot({.title = "Outliers at " + std::string(site_name(site)),
                             .description = "Largest magnitude over root mean square of the activations.",
                             .x_label = "block",
                             .y_label = "largest / RMS"},
                            after, before, input.blocks, 0.0));
  }
  return out;
}

std::string histogram_section(const ReportInput& input, const Facts& facts) {
  if (!input.run || !input.run->damage) return {};
  const DamageReport& damage = *input.run->damage;
  if (damage.weights.empty() && damage.sites.empty()) return {};
  std::string out =
      "<h2>Weights and activations, before and after</h2>\n" +
      fmt::format(kKey, "before", "M0 12V4H32V12Z", "", "before", "ours", "M0 6H32", "", "after") +
      "<p class=\"note\">For the matrices with the largest error and what they read.</p>\n";
  std::string weights, sites;
  std::set<std::pair<int, std::string>> seen;
  for (const size_t index : facts.worst) {
    const ReportTensor& tensor = *facts.matrices[index].tensor;
    if (const WeightDamage* weight = weights_of(input, tensor.name))
      weights += weight_figure(*weight, shown(weight->scheme));
    if (tensor.site.empty() || !seen.insert({tensor.block, tensor.site}).second) continue;
    for (const SiteDamage& site : damage.sites)
      if (site.block == tensor.block && site_name(site.site) == tensor.site) sites += site_figure(site);
  }
  if (!weights.empty())
    out += "<details open=\"open\"><summary>Weights</summary>\n<div class=\"plots\">\n" + weights +
           "</div></details>\n";
  if (!sites.empty()) {
    out +=
        "<details open=\"open\"><summary>Activations (both axes logarithmic)</summary>\n<div "
        "class=\"plots\">\n" +
        sites + "</div></details>\n";
  }
  const std::string outliers = outlier_plots(input);
  if (!outliers.empty()) {
    out +=
        "<details><summary>Outliers of activations by block (dashed: before)</summary>\n<div "
        "class=\"plots\">\n" +
        outliers + "</div></details>\n";
  }
  return out;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t extent : shape) text += (text.empty() ? "" : "×") + std::to_string(extent);
  return text;
}

std::string optional_number(const std::optional<double>& value) {
  return value ? number(*value) : "–";
}

std::string tensor_section(const Facts& facts) {
  const Column columns[] = {{"Tensor", false},
                            {"Shape", true},
                            {"Asked", false},
                            {"Applied", false},
                            {"Scheme", false},
                            {"Bits", true},
                            {"Output error", true},
                            {"RTN", true},
                            {"Weight error", true},
                            {"Max |W−Ŵ|", true},
                            {"Clipped", true},
                            {"Fallback", false},
                            {"Also recorded", false, true}};
  std::vector<std::vector<std::string>> rows, worst;
  for (const MatrixRow& row : facts.matrices) {
    const TensorRecord& record = *row.tensor->record;
    rows.push_back({shown(record.name), shape_text(record.shape), shown(record.method_asked),
                    shown(record.method_applied), shown(record.scheme),
                    optional_number(record.bits_per_weight), optional_number(row.output_error),
                    optional_number(row.rtn_output_error), optional_number(record.relative_error),
                    optional_number(record.max_error),
                    record.clipped_share ? fmt::format("{:.3g} %", 100.0 * *record.clipped_share) : "–",
                    shown(record.fallback), row.notes});
  }
  if (rows.empty()) return {};
  for (const size_t index : facts.worst) worst.push_back(rows[index]);
  return "<h2>Matrices</h2>\n<p class=\"note\">" + escape(facts.error_name) + ", largest first.</p>\n" +
         html_table(fmt::format("The {} matrices with the largest error", worst.size()), columns, worst) +
         fmt::format("<details><summary>All {} compressed matrices</summary>\n", rows.size()) +
         html_table("All compressed matrices, in execution order", columns, rows) + "</details>\n";
}

std::string repeat_section(const ReportInput& input, const Facts& facts) {
  std::string out = "<h2>To repeat it</h2>\n" + fact_list(facts.repeat) +
                    "<details><summary>Options and recipe</summary>\n<pre>" +
                    escape(shown(input.manifest.options.dump())) + "</pre>\n<pre>" +
                    escape(shown(input.manifest.recipe.dump())) + "</pre>\n</details>\n";
  const Column columns[] = {{"Input", false}, {"Bytes", true}, {"XXH3-128", false}};
  std::vector<std::vector<std::string>> rows;
  for (const Json& file : input.manifest.inputs.items()) {
    const Json *name = file.find("name"), *bytes = file.find("bytes"), *hash = file.find("xxh3_128");
    rows.push_back({name != nullptr && name->is_string() ? shown(name->as_string()) : "–",
                    bytes != nullptr && bytes->is_number() ? bytes->dump() : "–",
                    hash != nullptr && hash->is_string() ? shown(hash->as_string()) : "–"});
  }
  if (!rows.empty()) out += html_table("Inputs and their hashes", columns, rows);
  if (!input.manifest.history.empty()) {
    out += fmt::format("<details><summary>Made from the output of {} earlier runs</summary>\n",
                       input.manifest.history.size());
    for (const Json& earlier : input.manifest.history)
      out += "<pre>" + escape(shown(earlier.dump())) + "</pre>\n";
    out += "</details>\n";
  }
  return out;
}

}  // namespace

std::string report_html(const ReportInput& input) {
  const Facts facts = gather(input);
  return head(facts) + damage_section(facts) + speed_section(facts) + training_section(input, facts) +
         error_section(input, facts) + size_section(input, facts) + worst_section(input) +
         histogram_section(input, facts) + tensor_section(facts) + repeat_section(input, facts) +
         "</main>\n</body>\n</html>\n";
}

}  // namespace pare
