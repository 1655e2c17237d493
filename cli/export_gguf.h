// cli/export_gguf.h: `pare export --format gguf`: joins the names and layouts of the format with the search
// for codes.
#pragma once

#include <string>

#include "cli/command.h"
#include "cli/output_model.h"

namespace pare::cli {

struct GgufExportOptions {
  std::string model;
  std::string type;         // "Q4_K_M"
  bool requantize = false;  // round again what is quantized already
  bool plain = false;       // 32-weight types as other programs round them, without a search
};

Result<Exit> export_gguf(const GgufExportOptions& options, const OutputOptions& output,
                         const CommonOptions& common);

}  // namespace pare::cli
