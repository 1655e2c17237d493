// The same facts as text tables, and as one JSON object.
#include <fmt/core.h>

#include <algorithm>

#include "engine/core/text.h"
#include "evaluate/report/facts.h"

namespace pare {
namespace {

using namespace report;

// Characters, not bytes: what a terminal shows.
size_t width_of(std::string_view text) {
  return size_t(std::count_if(text.begin(), text.end(), [](char c) { return (uint8_t(c) & 0xC0) != 0x80; }));
}

// Columns padded to their widest cell; a leading '>' of a header aligns to the right.
std::string table(std::vector<std::vector<std::string>> rows) {
  std::vector<bool> is_right;
  for (std::string& title : rows.front()) {
    is_right.push_back(!title.empty() && title[0] == '>');
    if (is_right.back()) title.erase(0, 1);
  }
  std::vector<size_t> widths(rows.front().size());
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string pad(widths[i] - width_of(row[i]), ' ');
      line += "  " + (is_right[i] ? pad + row[i] : row[i] + pad);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string fact_lines(const std::vector<Fact>& facts) {
  if (facts.empty()) return {};
  std::vector<std::vector<std::string>> rows;
  for (const Fact& fact : facts) rows.push_back({fact.name, fact.value});
  return table(std::move(rows));
}

std::string optional_number(const std::optional<double>& value) {
  return value ? number(*value) : "-";
}

std::string list(const char* title, const std::vector<std::string>& items) {
  if (items.empty()) return {};
  std::string out = std::string("\n") + title + "\n";
  for (const std::string& item : items) out += "  * " + item + "\n";
  return out;
}

}  // namespace

std::string report_text(const ReportInput& input) {
  const Facts facts = gather(input);
  std::string out = facts.title + ": " + facts.subtitle + "\n" + list("KNOW THIS FIRST", facts.warnings) +
                    "\n" + fact_lines(facts.key_figures) + list("MISSING", facts.missing);
  if (!facts.damage.empty()) out += "\nDAMAGE\n" + fact_lines(facts.damage) + "\n" + fact_lines(facts.data);
  out += "\nSIZE\n" + fact_lines(facts.size_facts) + "\n";
  std::vector<std::vector<std::string>> sizes = {{"part", ">weights", ">bytes", ">bits/weight"}};
  const bool has_damage = input.run && input.run->damage;
  if (has_damage) sizes[0].push_back(">hidden state error");
  for (const BlockSize& size : facts.sizes) {
    const bool is_block = size.block >= 0 && size.block < input.blocks;
    sizes.push_back({is_block ? "block " + size.label : size.label, format_count(uint64_t(size.elements)),
                     format_count(size.bytes), number(size.bits_per_weight)});
    if (!has_damage) continue;
    std::string error = "-";
    for (const BlockDamage& block : input.run->damage->blocks)
      if (is_block && block.block == size.block) error = number(block.relative_error);
    sizes.back().push_back(error);
  }
  out += table(std::move(sizes));
  if (input.run && !input.run->curve.empty()) {
    std::vector<std::vector<std::string>> rows = {{">bits/weight", ">" + shown(input.run->curve_unit), ""}};
    for (const CurvePoint& point : input.run->curve)
      rows.push_back({number(point.bits_per_weight), number(point.loss), point.chosen ? "chosen" : ""});
    out += "\nWHAT A SIZE WOULD COST\n" + table(std::move(rows));
  }
  if (!facts.matrices.empty()) {
    std::vector<std::vector<std::string>> rows = {{"tensor", "asked", "applied", "scheme", ">bits",
                                                   ">output error", ">rtn", ">weight error", ">clipped",
                                                   "also"}};
    for (const MatrixRow& row : facts.matrices) {
      const TensorRecord& record = *row.tensor->record;
      rows.push_back(
          {shown(record.name), shown(record.method_asked), shown(record.method_applied), shown(record.scheme),
           optional_number(record.bits_per_weight), optional_number(row.output_error),
           optional_number(row.rtn_output_error), optional_number(record.relative_error),
           record.clipped_share ? fmt::format("{:.3g} %", 100.0 * *record.clipped_share) : "-",
           record.fallback.empty() ? row.notes : "fallback: " + shown(record.fallback) + "; " + row.notes});
    }
    out += "\nMATRICES (" + facts.error_name + ")\n" + table(std::move(rows));
  }
  if (has_damage && !input.run->damage->worst.empty()) {
    std::vector<std::vector<std::string>> rows = {{">KL", ">position", ">window", ">in window", ">id",
                                                   ">nll before", ">nll after", "original says", "this says",
                                                   "text [token]"}};
    for (const WorstToken& worst : input.run->damage->worst)
      rows.push_back({number(worst.kl), std::to_string(worst.position), std::to_string(worst.window),
                      std::to_string(worst.position_in_window), std::to_string(worst.id),
                      number(worst.original_nll), number(worst.nll), shown(worst.original_best),
                      shown(worst.compressed_best), shown(worst.context) + " [" + shown(worst.token) + "]"});
    out += "\nWORST TOKENS\n" + table(std::move(rows));
  }
  out += "\nTO REPEAT IT\n" + fact_lines(facts.repeat) + "  Options  " +
         shown(input.manifest.options.dump()) + "\n  Recipe  " + shown(input.manifest.recipe.dump()) + "\n";
  std::vector<std::vector<std::string>> inputs = {{"input", ">bytes", "XXH3-128"}};
  for (const Json& file : input.manifest.inputs.items()) {
    const Json *name = file.find("name"), *bytes = file.find("bytes"), *hash = file.find("xxh3_128");
    inputs.push_back({name != nullptr && name->is_string() ? shown(name->as_string()) : "-",
                      bytes != nullptr && bytes->is_number() ? bytes->dump() : "-",
                      hash != nullptr && hash->is_string() ? shown(hash->as_string()) : "-"});
  }
  return out + "\n" + table(std::move(inputs));
}

Json report_json(const ReportInput& input) {
  const Facts facts = gather(input);
  Json json = Json::object();
  json["schema_version"] = 1;
  json["output"] = shown(input.name);
  json["format"] = input.format;
  json["output_bytes"] = Json(input.output_bytes);
  Json warnings = Json::array(), missing = Json::array(), worst = Json::array(), sizes = Json::array();
  for (const std::string& text : facts.warnings) warnings.push_back(Json(text));
  for (const std::string& text : facts.missing) missing.push_back(Json(text));
  for (const size_t index : facts.worst) {
    Json row = Json::object();
    row["name"] = shown(facts.matrices[index].tensor->name);
    row[facts.by_output ? "output_error" : "relative_error"] = facts.matrices[index].error(facts.by_output);
    worst.push_back(std::move(row));
  }
  for (const BlockSize& size : facts.sizes) {
    Json row = Json::object();
    row["part"] = size.label;
    row["weights"] = Json(size.elements);
    row["bytes"] = Json(size.bytes);
    row["bits_per_weight"] = size.bits_per_weight;
    sizes.push_back(std::move(row));
  }
  json["warnings"] = std::move(warnings);
  json["missing"] = std::move(missing);
  json["worst_tensors"] = std::move(worst);
  json["parts"] = std::move(sizes);
  json["manifest"] = input.manifest.to_json();
  json["report"] = input.run ? to_json(*input.run) : Json();
  return json;
}

}  // namespace pare
