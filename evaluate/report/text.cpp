// The same facts as text tables, and as one JSON object.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "engine/core/text.h"
#include "evaluate/report/facts.h"

namespace pare {
namespace {

using namespace report;

constexpr size_t kColumns = 80;  // of a terminal

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

// Broken at spaces; words that are longer than a line (hashes, paths) stay whole, to be copied.
std::string wrapped(std::string_view text, const std::string& first, const std::string& rest) {
  std::string out, line = first;
  bool is_empty = true;  // nothing but the indentation
  while (!text.empty()) {
    const size_t end = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!is_empty && width_of(line) + 1 + width_of(word) > kColumns) {
      out += line + "\n";
      line = rest;
      is_empty = true;
    }
    if (!is_empty) line += ' ';
    line += word;
    is_empty = false;
  }
  return out + line + "\n";
}

// Names and values side by side; a value that is too long for that goes below its name.
std::string fact_lines(const std::vector<Fact>& facts) {
  size_t width = 0;
  for (const Fact& fact : facts) width = std::max(width, width_of(fact.name));
  std::string out;
  for (const Fact& fact : facts) {
    const std::string start = "  " + fact.name + std::string(width - width_of(fact.name) + 2, ' ');
    if (width_of(start) + width_of(fact.value) <= kColumns) {
      out += start + fact.value + "\n";
    } else if (fact.value.starts_with("pare ")) {
      out += "  " + fact.name + "\n    " + fact.value + "\n";  // a command, to be copied
    } else {
      out += "  " + fact.name + "\n" + wrapped(fact.value, "    ", "    ");
    }
  }
  return out;
}

std::string optional_number(const std::optional<double>& value) {
  return value ? number(*value) : "-";
}

std::string list(const char* title, const std::vector<std::string>& items) {
  if (items.empty()) return {};
  std::string out = std::string("\n") + title + "\n";
  for (const std::string& item : items) out += wrapped(item, "  * ", "    ");
  return out;
}

std::string size_text(const ReportInput& input, const Facts& facts) {
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
  std::string out = "\nSIZE\n" + fact_lines(facts.size_facts) + "\n" + table(std::move(sizes));
  if (input.run && !input.run->curve.empty()) {
    std::vector<std::vector<std::string>> rows = {{">bits/weight", ">" + shown(input.run->curve_unit), ""}};
    for (const CurvePoint& point : input.run->curve)
      rows.push_back({number(point.bits_per_weight), number(point.loss), point.chosen ? "chosen" : ""});
    out += "\nWHAT A SIZE WOULD COST\n" + table(std::move(rows));
  }
  return out;
}

// "12 gate_up", "12 expert 3 down": short enough for a table; the whole name stands among the details.
std::string short_label(const ReportInput& input, const ReportTensor& tensor) {
  if (tensor.part.empty()) return shown(tensor.name);
  const bool is_block = tensor.block >= 0 && tensor.block < input.blocks;
  const std::string part =
      tensor.expert < 0 ? tensor.part : fmt::format("expert {} {}", tensor.expert, tensor.part);
  return is_block ? fmt::format("{} {}", tensor.block, part) : part;
}

std::string matrix_text(const ReportInput& input, const Facts& facts) {
  if (facts.matrices.empty()) return {};
  std::vector<std::vector<std::string>> rows = {{"matrix", "scheme", ">bits"}};
  if (facts.by_output) rows[0].insert(rows[0].end(), {">output err", ">by RTN"});
  rows[0].insert(rows[0].end(), {">weight err", ">clipped"});
  std::string details;
  for (const MatrixRow& row : facts.matrices) {
    const TensorRecord& record = *row.tensor->record;
    rows.push_back(
        {short_label(input, *row.tensor), shown(record.scheme), optional_number(record.bits_per_weight)});
    if (facts.by_output) {
      rows.back().push_back(optional_number(row.output_error));
      rows.back().push_back(optional_number(row.rtn_output_error));
    }
    rows.back().push_back(optional_number(record.relative_error));
    rows.back().push_back(record.clipped_share ? fmt::format("{:.3g} %", 100.0 * *record.clipped_share)
                                               : "-");
    std::string line = shown(record.name) + ": " + shown(record.method_applied);
    if (record.method_asked != record.method_applied) line += ", asked for " + shown(record.method_asked);
    if (!record.fallback.empty()) line += "; fallback: " + shown(record.fallback);
    if (record.max_error) line += "; max |W−Ŵ| " + number(*record.max_error);
    if (!row.notes.empty()) line += "; " + row.notes;
    details += wrapped(line, "  ", "    ");
  }
  return "\nMATRICES\n" + wrapped(facts.error_name, "  ", "  ") + "\n" + table(std::move(rows)) +
         "\nDETAILS OF MATRICES\n" + details;
}

std::string worst_text(const ReportInput& input) {
  if (!input.run || !input.run->damage || input.run->damage->worst.empty()) return {};
  std::string out = "\nWORST TOKENS\n";
  for (const WorstToken& worst : input.run->damage->worst) {
    out += wrapped(fmt::format("KL {}: nll {} → {}, position {}, window {}, {} in window, id {}",
                               number(worst.kl), number(worst.original_nll), number(worst.nll),
                               worst.position, worst.window, worst.position_in_window, worst.id),
                   "  ", "      ");
    out += wrapped(fmt::format("original says [{}], this [{}]", shown(worst.original_best),
                               shown(worst.compressed_best)),
                   "    ", "      ");
    out += wrapped(fmt::format("…{} [{}]", shown(worst.context), shown(worst.token)), "    ", "      ");
  }
  return out;
}

std::string repeat_text(const ReportInput& input, const Facts& facts) {
  std::string out = "\nTO REPEAT IT\n" + fact_lines(facts.repeat);
  for (const auto& [title, json] : {std::pair<const char*, const Json*>{"OPTIONS", &input.manifest.options},
                                    {"RECIPE", &input.manifest.recipe}}) {
    if (!json->is_object() && !json->is_array()) continue;
    std::vector<Fact> members;
    if (json->is_object()) {
      for (const auto& [key, value] : json->members()) members.push_back({shown(key), value_text(value)});
    } else {
      int step = 0;
      for (const Json& item : json->items()) members.push_back({std::to_string(++step), value_text(item)});
    }
    if (!members.empty()) out += fmt::format("\n{}\n", title) + fact_lines(members);
  }
  std::vector<std::vector<std::string>> inputs = {{"input", ">bytes", "XXH3-128"}};
  for (const Json& file : input.manifest.inputs.items()) {
    const Json *name = file.find("name"), *bytes = file.find("bytes"), *hash = file.find("xxh3_128");
    inputs.push_back({name != nullptr && name->is_string() ? shown(name->as_string()) : "-",
                      bytes != nullptr && bytes->is_number() ? bytes->dump() : "-",
                      hash != nullptr && hash->is_string() ? shown(hash->as_string()) : "-"});
  }
  return out + "\n" + table(std::move(inputs));
}

constexpr size_t kTextRows = 20;  // of the curve on held-out text; the page has all

std::string training_text(const ReportInput& input, const Facts& facts) {
  if (facts.training.empty()) return {};
  std::string out = "\nTRAINING\n" + fact_lines(facts.training);
  const TrainingCurve& curve = *input.run->training;
  if (curve.validation.empty()) return out;
  std::vector<std::vector<std::string>> rows = {{">after step", ">held-out cross entropy", ">perplexity"}};
  for (const TrainingPoint& point : thin(curve.validation, kTextRows))
    rows.push_back({std::to_string(point.step), number(point.value), number(std::exp(point.value))});
  return out + "\n" + table(std::move(rows));
}

}  // namespace

std::string report_text(const ReportInput& input) {
  const Facts facts = gather(input);
  std::string out = wrapped(facts.title + ": " + facts.subtitle, "", "  ") +
                    list("KNOW THIS FIRST", facts.warnings) + "\n" + fact_lines(facts.key_figures) +
                    list("MISSING", facts.missing);
  if (!facts.damage.empty()) out += "\nDAMAGE\n" + fact_lines(facts.damage) + "\n" + fact_lines(facts.data);
  if (!facts.speed.empty()) out += "\nSPEED ON THIS DEVICE, TOKENS PER SECOND\n" + fact_lines(facts.speed);
  return out + training_text(input, facts) + size_text(input, facts) + matrix_text(input, facts) +
         worst_text(input) + repeat_text(input, facts);
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
