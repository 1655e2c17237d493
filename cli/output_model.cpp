#include "cli/output_model.h"

#include <sys/stat.h>

#include "engine/core/text.h"
#include "engine/core/version.h"
#include "formats/create_model.h"
#include "formats/dialects/dialect_sink.h"

namespace pare::cli {
namespace {

Result<CreateOptions> create_options(const WeightSource& source, const OutputOptions& options,
                                     uint64_t expected_bytes) {
  CreateOptions create;
  create.write.force = options.force;
  create.write.expected_bytes = expected_bytes;
  create.write.inputs = source.file_identities();
  create.config_text = source.config_text();
  create.assets = source.assets();
  create.expected_bytes = expected_bytes;
  if (options.max_shard_bytes > 0) create.max_shard_bytes = options.max_shard_bytes;
  if (options.dense_dtype == "f32") create.dense_dtype = DType::f32;
  if (options.dense_dtype == "bf16") create.dense_dtype = DType::bf16;
  if (options.dense_dtype == "f16") create.dense_dtype = DType::f16;
  return create;
}

}  // namespace

Status check_output_model(const WeightSource& source, const OutputOptions& options, uint64_t expected_bytes) {
  PARE_TRY(const CreateOptions create, create_options(source, options, expected_bytes));
  PARE_TRY(const OutputKind kind, output_kind(options.path));
  static_cast<void>(kind);
  return check_output(options.path, create.write);
}

Result<std::unique_ptr<WeightSink>> open_output_model(const WeightSource& source,
                                                      const OutputOptions& options, uint64_t expected_bytes) {
  PARE_TRY(const CreateOptions create, create_options(source, options, expected_bytes));
  return create_model(options.path, create);
}

Result<std::unique_ptr<WeightSink>> open_dialect_output(const WeightSource& source, const OutputOptions& options,
                                                        uint64_t expected_bytes, const DialectPlan& plan) {
  PARE_TRY(const CreateOptions create, create_options(source, options, expected_bytes));
  return create_dialect_sink(options.path, create, plan);
}

Result<Manifest> start_manifest(const WeightSource& source, const std::string& command, Json options,
                                uint64_t seed) {
  Manifest manifest;
  manifest.program_version = kVersion;
  manifest.command = command;
  manifest.options = std::move(options);
  manifest.seed = seed;
  PARE_TRY(manifest.inputs, source.hash_inputs());
  if (source.manifest() != nullptr) {
    manifest.history = source.manifest()->history;
    Manifest previous = *source.manifest();
    previous.history.clear();
    previous.tensors.clear();  // superseded: this manifest lists every tensor again
    manifest.history.push_back(previous.to_json());
  }
  Json step = Json::object();
  step["step"] = command;
  step["options"] = manifest.options;
  manifest.recipe.push_back(std::move(step));
  return manifest;
}

Result<uint64_t> bytes_on_disk(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) {
    return Error{.exit = Exit::io,
                 .rule = "IX20",
                 .path = path,
                 .where = {},
                 .what = "cannot be read back",
                 .got = {},
                 .limit = {}};
  }
  if (!S_ISDIR(status.st_mode)) return uint64_t(status.st_size);
  PARE_TRY(const auto names, list_directory(path));
  uint64_t bytes = 0;
  for (const std::string& name : names) {
    PARE_TRY(const uint64_t inside, bytes_on_disk(path + "/" + name));
    bytes += inside;
  }
  return bytes;
}

}  // namespace pare::cli
