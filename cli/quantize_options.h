// cli/quantize_options.h: the options of `pare quantize`, and what they mean.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/job_arguments.h"
#include "quantize/calibrated_step.h"
#include "quantize/selection.h"

namespace pare::cli {

struct QuantizeArguments : JobArguments {
  std::string method = "rtn";
  std::string scheme = "int8-ch";
  std::string embedding, head;
  std::vector<std::string> include, exclude, overrides;
  std::string clip = "auto";
  std::string activations = "none", observer = "minmax";
  std::string kv;  // empty: none
  bool clamp = false;
  double damping = 0.01;
  int64_t block = 128;
  std::string order = "act", groups = "static", inputs = "compressed";
  double alpha = 0.0;  // of smoothquant; 0: searched
  bool allow_fallback = false;
  int64_t low_rank_repair = 0;  // rank of the factors beside rounded matrices
  // Chosen bits.
  double target_bpw = 0.0;  // bits per weight of the linears, scales included; 0: not asked for
  std::string target_size;  // of all weights, "80MB"
  std::string sensitivity = "kl";
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

}  // namespace pare::cli
