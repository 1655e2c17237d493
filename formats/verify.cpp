#include "formats/verify.h"

#include <fmt/core.h>

#include <algorithm>

#include "engine/core/file.h"
#include "engine/core/hash.h"
#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "formats/checkpoint_files.h"
#include "formats/directory_source.h"
#include "formats/fault.h"
#include "formats/file_kind.h"
#include "formats/gguf/source.h"
#include "formats/open_model.h"
#include "formats/pare_file.h"
#include "formats/pare_layout.h"
#include "formats/stored_manifest.h"

namespace pare {
namespace {

// Refused formats and files that are not there are errors; anything else wrong is a finding.
bool is_finding(const Error& error) {
  return error.exit != Exit::io && error.exit != Exit::resource &&
         !std::string_view(error.rule).starts_with("RF");
}

Result<VerifyReport> with_fault(VerifyReport report, Error error) {
  if (!is_finding(error)) return error;
  report.faults.push_back(std::move(error));
  return report;
}

void add_fault(VerifyReport& report, Status status) {
  if (!status) report.faults.push_back(std::move(status).error());
}

// The first thing wrong with a tensor: its bytes, then what they say.
Status check_tensor(const PareFile& file, const PareTensor& tensor) {
  for (const ParePart& part : tensor.parts) {
    PARE_CHECK(file.check_part(part, "tensor " + quote(tensor.name) + "." + sanitize(part.role)));
  }
  return file.check_values(tensor);
}

Result<VerifyReport> verify_pare(const std::string& path, InputFile input) {
  VerifyReport report;
  report.format = "pare";
  report.bytes = input.size();
  report.has_checksums = true;
  auto opened = PareFile::open(std::move(input));
  if (!opened) return with_fault(std::move(report), std::move(opened).error());
  const PareFile& file = **opened;
  const PareDirectory& directory = file.directory();
  report.tensors = static_cast<int64_t>(directory.tensors.size());
  for (const std::string& skipped : directory.skipped)
    report.notes.push_back("skipped, unknown to this version: " + skipped);
  if (auto config =
          parse_json(directory.config_text, path + ": config", {.max_bytes = limits::kConfigBytes}, "CF01");
      !config) {
    report.faults.push_back(std::move(config).error());
  }
  for (const PareBlob& asset : directory.assets) {
    if (auto bytes = file.decode(asset); !bytes) report.faults.push_back(std::move(bytes).error());
  }
  for (const PareTensor& tensor : directory.tensors) {
    add_fault(report, check_tensor(file, tensor));
    file.release(tensor);
  }
  for (const PareBlob& section : directory.sections)
    add_fault(report, file.check_part(section.part, "section " + quote(section.name)));
  PARE_CHECK(file.file().check_unchanged());
  return report;
}

Status check_sum(const SafetensorsFile& file, const SafetensorsEntry& entry,
                 const std::optional<Hash128>& expected) {
  if (!expected) return {};
  const Hash128 found = xxh3_128(file.bytes(entry));
  file.release(entry);
  if (found == *expected) return {};
  return malformed("IX21", file.path(), quote(entry.name), "checksum differs from pare_manifest.json",
                   found.hex(), expected->hex());
}

// Files that the manifest lists: weights by their sum, texts only noted when edited.
void check_listed_files(const std::string& folder, const StoredManifest& manifest, VerifyReport& report) {
  for (const FileSum& listed : manifest.files()) {
    const auto input = InputFile::open_below(folder, listed.name, false);
    if (!input) {
      report.faults.push_back(input.error());
      continue;
    }
    const auto found = hash_file(*input, listed.name);
    if (!found) {
      report.faults.push_back(found.error());
      continue;
    }
    if (*found == file_sum_json(listed)) continue;
    const std::string got = found->find("xxh3_128")->as_string();
    if (listed.name.ends_with(".safetensors")) {
      // The tensors tell which of them it is; the sum of the file finds the header and its padding.
      report.faults.push_back(malformed("IX21", input->path(), "", "file differs from pare_manifest.json",
                                        got, listed.sum.hex()));
    } else {
      report.notes.push_back(fmt::format("{}: edited since it was written (got {}, expected {})",
                                         sanitize(listed.name), got, listed.sum.hex()));
    }
  }
}

Result<VerifyReport> verify_directory(const std::string& path) {
  VerifyReport report;
  report.format = "safetensors";
  OpenOptions options;
  options.verify_checksums = false;
  options.weights_only = true;  // what cannot be executed can still be checked
  auto source = open_model(path, options);
  if (!source) return with_fault(std::move(report), std::move(source).error());
  report.format = (*source)->format_name();
  report.tensors = static_cast<int64_t>((*source)->tensors().size());
  auto checkpoint = open_checkpoint(path, {});
  if (!checkpoint) return with_fault(std::move(report), std::move(checkpoint).error());
  for (const CheckpointFile& file : checkpoint->files) report.bytes += file.file->size_bytes();
  for (const StoredTensor& tensor : (*source)->tensors()) {
    if (tensor.is_dense()) continue;
    if (auto loaded = (*source)->load(tensor.name); !loaded)
      report.faults.push_back(std::move(loaded).error());
    (*source)->release(tensor.name);
  }
  if ((*source)->manifest() == nullptr) return report;

  const std::string manifest_path = path + "/" + kManifestFileName;
  PARE_TRY(const std::string text, read_text_file(manifest_path, limits::kHeaderBytes));
  PARE_TRY(const StoredManifest manifest, StoredManifest::parse(text, manifest_path));
  report.has_checksums = true;
  for (const CheckpointFile& file : checkpoint->files) {
    for (const SafetensorsEntry& entry : file.file->entries())
      add_fault(report, check_sum(*file.file, entry, manifest.tensor_sum(entry.name)));
  }
  for (const TensorRecord& record : manifest.manifest().tensors) {
    const auto holds = [&](const CheckpointFile& file) { return file.file->find(record.name) != nullptr; };
    if (std::none_of(checkpoint->files.begin(), checkpoint->files.end(), holds)) {
      report.faults.push_back(
          malformed("IX21", path, quote(record.name), "tensor of pare_manifest.json is not there"));
    }
  }
  check_listed_files(path, manifest, report);
  return report;
}

Result<VerifyReport> verify_safetensors(InputFile input) {
  VerifyReport report;
  report.format = "safetensors";
  report.bytes = input.size();
  auto file = open_weights(std::move(input));
  if (!file) return with_fault(std::move(report), std::move(file).error());
  report.tensors = static_cast<int64_t>((*file)->entries().size());
  return report;
}

Result<VerifyReport> verify_gguf(const std::string& path, InputFile input) {
  VerifyReport report;
  report.format = "gguf";
  report.bytes = input.size();
  auto files = open_gguf_parts(path, std::move(input));
  if (!files) return with_fault(std::move(report), std::move(files).error());
  report.bytes = 0;
  report.has_checksums = true;
  for (const auto& file : *files) {
    report.bytes += file->file().size();
    report.has_checksums = report.has_checksums && file->has_sums();
    const auto& tensors = file->header().tensors;
    report.tensors += static_cast<int64_t>(tensors.size());
    for (size_t i = 0; i < tensors.size(); ++i) {
      Status status = file->check_sum(i);
      if (status) status = file->check_values(tensors[i]);
      add_fault(report, std::move(status));
      file->release(tensors[i]);
    }
    PARE_CHECK(file->file().check_unchanged());
  }
  return report;
}

}  // namespace

Result<VerifyReport> verify_model(const std::string& path) {
  if (is_directory(path)) return verify_directory(path);
  PARE_TRY(InputFile input, InputFile::open(path));
  PARE_TRY(const DetectedFile detected, detect_file(input));
  switch (detected.kind) {
    case FileKind::pare:
      return verify_pare(path, std::move(input));
    case FileKind::safetensors:
      return verify_safetensors(std::move(input));
    case FileKind::gguf:
      return verify_gguf(path, std::move(input));
    case FileKind::refused:
      return detected.refusal;
    case FileKind::unknown:
      break;
  }
  // Damaged beyond recognition: a .pare file unless its name says otherwise.
  if (path.ends_with(".gguf")) return verify_gguf(path, std::move(input));
  return path.ends_with(".safetensors") ? verify_safetensors(std::move(input))
                                        : verify_pare(path, std::move(input));
}

}  // namespace pare
