#include "formats/open_model.h"

#include "engine/core/file.h"
#include "engine/core/text.h"
#include "formats/directory_source.h"
#include "formats/fault.h"
#include "formats/file_kind.h"
#include "formats/gguf/source.h"
#include "formats/hub_cache.h"
#include "formats/pare_source.h"

namespace pare {
namespace {

Result<std::shared_ptr<const WeightSource>> open_file(const std::string& path, const OpenOptions& options) {
  PARE_TRY(InputFile input, InputFile::open(path));
  PARE_TRY(const DetectedFile detected, detect_file(input));
  switch (detected.kind) {
    case FileKind::pare:
      return open_pare(path, std::move(input), options.verify_checksums);
    case FileKind::safetensors:
      return open_single_file(path, std::move(input), options);
    case FileKind::gguf:
      return open_gguf(path, std::move(input), options.verify_checksums);
    case FileKind::refused:
      return detected.refusal;
    case FileKind::unknown:
      break;
  }
  // Damaged beyond recognition: the name says what it should have been.
  if (path.ends_with(".pare")) return open_pare(path, std::move(input), options.verify_checksums);
  if (path.ends_with(".safetensors")) return open_single_file(path, std::move(input), options);
  if (path.ends_with(".gguf")) return open_gguf(path, std::move(input), options.verify_checksums);
  return malformed("IX17", path, "",
                   "not a model: neither a folder, nor safetensors, nor .pare, nor GGUF by its content");
}

std::string last_component(const std::string& path) {
  const size_t end = path.find_last_not_of('/');
  const size_t slash = path.find_last_of('/', end);
  return path.substr(slash == std::string::npos ? 0 : slash + 1,
                     end == std::string::npos ? 0 : end - (slash == std::string::npos ? 0 : slash + 1) + 1);
}

}  // namespace

Result<std::shared_ptr<const WeightSource>> open_model(const std::string& model, const OpenOptions& options) {
  if (is_temporary_name(last_component(model))) {
    return malformed("PK14", model, "", "unfinished output of an interrupted run; not a model");
  }
  if (is_directory(model)) return open_directory(model, model, options);
  if (path_exists(model)) return open_file(model, options);
  if (const auto name = parse_hub_name(model)) {
    PARE_TRY(const std::string snapshot, find_in_hub_cache(*name));
    return open_directory(model, snapshot, options);
  }
  // A folder on the way that may not be searched is not the same as a path that is not there.
  const auto input = InputFile::open(model);
  if (!input && input.error().got.find("ENOENT") == std::string::npos) return input.error();
  return fault(Exit::io, "IX20", model, "", "no such file or folder; pare never downloads");
}

}  // namespace pare
