// cli/quantize_options.h: the options of `pare quantize`, and what they mean.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/output_model.h"
#include "quantize/calibrated_step.h"
#include "quantize/selection.h"

namespace pare::cli {

struct QuantizeArguments {
  std::string model;
  OutputOptions output;
  std::string method = "rtn";
  std::string scheme = "int8-ch";
  std::string embedding, head;
  std::vector<std::string> include, exclude, overrides;
  std::string clip = "auto";
  std::string activations = "none", observer = "minmax";
  std::string kv;  // empty: none
  bool clamp = false;
  bool dry_run = false;
  // Calibration.
  std::string data, statistics;
  int64_t samples = 128, context = 0;
  double damping = 0.01;
  int64_t block = 128;
  std::string order = "act", groups = "static", inputs = "compressed";
  double alpha = 0.0;  // of smoothquant; 0: searched
  bool allow_fallback = false;
  std::string bos = "auto", chat_template = "default";
  bool parse_special = false;
  // Chosen bits.
  double target_bpw = 0.0;  // bits per weight of the linears, scales included; 0: not asked for
  std::string target_size;  // of all weights, "80MB"
  std::string sensitivity = "kl";
  // The report.
  std::string report_data;
  int64_t report_tokens = 4096;
  bool no_report = false, report = false;  // report: a line per matrix
  std::vector<std::string> fail_if;
  // The job.
  std::string work_dir;
  bool resume = false, restart = false, keep_work = false;
};

// What the words mean, checked (exit 2).
struct QuantizeSettings {
  Selection selection;
  CalibratedOptions calibrated;
};
Result<QuantizeSettings> quantize_settings(const QuantizeArguments& arguments);

// True when formats are chosen by size.
inline bool has_target(const QuantizeArguments& arguments) {
  return arguments.target_bpw > 0.0 || !arguments.target_size.empty();
}

// True when activations have to be seen, or the user gave data to see.
bool is_calibrated(const QuantizeArguments& arguments, const QuantizeSettings& settings);

// Options that decide the bytes of the output, defaults filled in; no paths.
Json canonical_options(const QuantizeArguments& arguments, const QuantizeSettings& settings);

void add_quantize_options(CLI::App& verb, QuantizeArguments& arguments);

// `text` with printf's format for one number.
std::string formatted(double value, const char* format);

}  // namespace pare::cli
