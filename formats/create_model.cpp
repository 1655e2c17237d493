#include "formats/create_model.h"

#include "engine/core/json.h"
#include "engine/core/limits.h"
#include "formats/directory_sink.h"
#include "formats/fault.h"
#include "formats/pare_sink.h"

namespace pare {

Result<OutputKind> output_kind(const std::string& path) {
  if (path.ends_with(".gguf")) return unsupported("", path, "", "GGUF is not supported yet");
  return path.ends_with(".pare") ? OutputKind::pare : OutputKind::safetensors;
}

Result<std::unique_ptr<WeightSink>> create_model(const std::string& path, const CreateOptions& options) {
  PARE_TRY(const OutputKind kind, output_kind(path));
  // The config travels as text; a sink must be able to rely on it being an object.
  PARE_TRY(const Json config,
           parse_json(options.config_text, "config.json", {.max_bytes = limits::kConfigBytes}, "CF01"));
  static_cast<void>(config);
  return kind == OutputKind::pare ? create_pare(path, options) : create_directory(path, options);
}

}  // namespace pare
