// evaluate/report/facts.h: the figures of a report, computed once for the page and for the text; internal to
// evaluate/report.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "evaluate/report/report_input.h"

namespace pare::report {

// A name or a token from a file, made safe to print. Text that went through sanitize() before stays as it is.
std::string shown(std::string_view text);
std::string number(double value);  // four significant digits, "∞"
std::string plus_minus(double value, double error);
// Any recorded value on one line: numbers short, objects as "key value, key value".
std::string value_text(const Json& value);

// One compressed matrix.
struct MatrixRow {
  const ReportTensor* tensor = nullptr;
  std::optional<double> output_error, rtn_output_error;  // of what the linear gives, relative
  std::string notes;  // everything else that was recorded: damping, dead columns, scale search, ...
  double error(bool by_output) const;  // the metric of Facts; 0 when it was not recorded
};

struct Series {
  std::string name;                            // "q", "down"
  std::vector<std::pair<int, double>> points;  // (block, error)
  std::vector<std::pair<int, double>> plain;   // the same by rounding to nearest, where it was recorded
};

struct BlockSize {
  std::string label;  // "0", "embedding", "head"
  int block = 0;
  double bits_per_weight = 0.0;
  uint64_t bytes = 0;
  int64_t elements = 0;
};

struct Fact {
  std::string name, value;
};

struct Facts {
  std::string title, subtitle;
  std::vector<std::string> warnings;  // what the reader must know first
  std::vector<std::string> missing;   // parts that this report lacks, and how to get them
  std::vector<Fact> key_figures;
  bool by_output = false;           // errors are of outputs on calibration data, else of weights
  std::string error_name;           // "relative output error ..."
  std::vector<MatrixRow> matrices;  // compressed ones, in execution order
  std::vector<size_t> worst;        // indices into `matrices`, largest error first, at most 8
  std::vector<Series> series;       // by matrix kind
  std::vector<BlockSize> sizes;     // by block, in execution order
  std::vector<Fact> size_facts;
  std::vector<Fact> damage;    // empty without a damage report
  std::vector<Fact> data;      // the tokens of the damage report
  std::vector<Fact> speed;     // empty when it was not measured
  std::vector<Fact> training;  // empty when nothing was trained
  std::vector<Fact> repeat;    // command, options, seed
};

Facts gather(const ReportInput& input);

}  // namespace pare::report
