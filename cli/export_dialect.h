// cli/export_dialect.h: `pare export --format compressed-tensors|gptq|awq`: a quantized model as another tool
// stores it.
#pragma once

#include <string>

#include "cli/command.h"
#include "cli/output_model.h"
#include "formats/dialects/dialect.h"

namespace pare::cli {

// Refuses before anything is written (QC08, exit 4), writes, reads back, and runs both models over a few
// tokens.
Result<Exit> export_dialect(const std::string& model, const Dialect& dialect, const OutputOptions& output,
                            const CommonOptions& common);

}  // namespace pare::cli
