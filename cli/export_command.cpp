#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>

#include "cli/backends.h"
#include "cli/commands.h"
#include "cli/export_dialect.h"
#include "cli/export_gguf.h"
#include "cli/model_argument.h"
#include "cli/output_model.h"
#include "cli/sparse_choice.h"
#include "engine/core/file.h"
#include "engine/core/log.h"
#include "engine/core/progress.h"
#include "engine/core/text.h"
#include "engine/tensor/tensor_scan.h"
#include "formats/create_model.h"
#include "formats/gguf/export.h"

namespace pare::cli {
namespace {

struct Options {
  std::string model;
  std::string format;
  OutputOptions output;
  std::string max_shard;
  bool clamp = false;
  std::string sparse;
  GgufExportOptions gguf;
};

Error option_error(const std::string& option, const std::string& what, const std::string& got,
                   const std::string& expected) {
  return Error{.exit = Exit::usage,
               .rule = "CL13",
               .path = option,
               .where = {},
               .what = what,
               .got = quote(got),
               .limit = expected,
               .limit_label = "expected"};
}

// --format must agree with what OUT will be.
Status check_format(const Options& options) {
  if (!options.gguf.type.empty() || options.gguf.requantize || options.gguf.plain)
    return option_error("--type, --requantize, --plain", "apply to GGUF only", options.output.path,
                        "NAME.gguf");
  PARE_TRY(const OutputKind kind, output_kind(options.output.path));
  const bool is_pare = kind == OutputKind::pare;
  if (find_dialect(options.format) != nullptr) {
    if (kind != OutputKind::safetensors)
      return option_error("-o", "this format is a directory", options.output.path,
                          "a name without .pare or .gguf");
    if (!options.output.dense_dtype.empty() || options.clamp)
      return option_error("--dtype, --clamp", "do not apply to this format", options.format, "safetensors");
  }
  if (options.format == "pare" && !is_pare)
    return option_error("-o", "the name of a .pare file ends in .pare", options.output.path, "NAME.pare");
  if (options.format == "safetensors" && is_pare)
    return option_error("-o", "a safetensors model is a directory", options.output.path,
                        "a name that does not end in .pare");
  if (!is_pare && !options.sparse.empty())
    return option_error("--sparse", "applies to .pare only; other formats hold zeros", options.sparse,
                        "NAME.pare");
  if (is_pare && !options.output.dense_dtype.empty())
    return option_error("--dtype", "applies to safetensors output only", options.output.dense_dtype,
                        "no --dtype");
  return {};
}

std::optional<DType> dense_dtype(const Options& options) {
  if (options.output.dense_dtype == "f32") return DType::f32;
  if (options.output.dense_dtype == "bf16") return DType::bf16;
  if (options.output.dense_dtype == "f16") return DType::f16;
  return std::nullopt;
}

uint64_t expected_bytes(const Options& options, const WeightSource& source, bool to_pare) {
  if (to_pare && options.sparse != "off") return stored_bytes(source);
  uint64_t bytes = 0;
  const std::optional<DType> asked = dense_dtype(options);
  for (const StoredTensor& tensor : source.tensors()) {
    if (to_pare && !tensor.is_sparse()) {
      bytes += tensor.bytes;
      continue;
    }
    const bool converts = tensor.scheme || (asked && is_floating(tensor.dtype));
    const DType dtype = converts ? asked.value_or(DType::f32) : tensor.dtype;
    bytes += uint64_t(tensor.shape.numel()) * uint64_t(dtype_bits(dtype)) / 8;
  }
  return bytes;
}

// Values that would become infinite in f16 stop the export, or are clamped and counted (NU03).
Result<WeightData> fit_into(WeightData data, DType target, bool clamp, const std::string& name,
                            const std::string& path, int64_t& clamped) {
  PARE_TRY(const Tensor values, data.to_dense_tensor());
  int64_t first = -1;
  const int64_t count = is_floating(values.dtype()) ? count_overflow(values, target, &first) : 0;
  if (count == 0) return data;
  if (!clamp) {
    return Error{.exit = Exit::numeric,
                 .rule = "NU03",
                 .path = path,
                 .where = quote(name) + index_text(values.shape(), first),
                 .what = "value too large for the target type; use bf16 or f32, or --clamp",
                 .got = std::to_string(count) + " values",
                 .limit = target == DType::f16 ? "65504" : "3.39e38"};
  }
  clamped += count;
  PARE_TRY(Tensor copy, converted(values, DType::f32));
  const float largest = target == DType::f16 ? 65504.0f : 3.38953139e38f;
  float* data_pointer = copy.mutable_data<float>();
  for (int64_t i = 0; i < copy.numel(); ++i) data_pointer[i] = std::clamp(data_pointer[i], -largest, largest);
  return WeightData{.form = copy, .transposed = false};
}

TensorRecord record_of(const StoredTensor& tensor, bool to_pare) {
  TensorRecord record;
  record.name = tensor.name;
  const bool stays_quantized = to_pare && tensor.scheme;
  record.kind = tensor.form_name();  // the sink writes what became of it
  record.scheme = tensor.scheme ? tensor.scheme->text() : std::string(dtype_name(tensor.dtype));
  record.shape.assign(tensor.shape.sizes().begin(), tensor.shape.sizes().end());
  record.method_asked = record.method_applied = tensor.scheme && !to_pare ? "dequantize" : "copy";
  // A dense file cannot say how inputs are rounded; the manifest keeps it.
  if (tensor.activation)
    record.extra[stays_quantized ? "activation" : "activation_left_out"] = tensor.activation->text();
  return record;
}

Result<OutputOptions> output_options(const Options& options) {
  OutputOptions output = options.output;
  if (!options.max_shard.empty()) {
    const auto bytes = parse_bytes(options.max_shard);
    if (!bytes || *bytes < (1u << 20))
      return option_error("--max-shard", "not a size of at least 1 MiB", options.max_shard,
                          "for example 5GB");
    output.max_shard_bytes = *bytes;
  }
  return output;
}

bool is_gguf(const Options& options) {
  return options.format == "gguf" || (options.format.empty() && options.output.path.ends_with(".gguf"));
}

Result<Exit> run_gguf(const Options& options, const CommonOptions& common) {
  if (!options.output.path.ends_with(".gguf"))
    return option_error("-o", "the name of a GGUF file ends in .gguf", options.output.path, "NAME.gguf");
  if (options.gguf.type.empty())
    return option_error("--type", "GGUF needs a type", "", "for example Q4_K_M, Q8_0 or F16");
  if (!options.output.dense_dtype.empty() || options.clamp || !options.max_shard.empty() ||
      !options.sparse.empty())
    return option_error("--dtype, --clamp, --max-shard, --sparse", "do not apply to GGUF", "gguf", "--type");
  GgufExportOptions gguf = options.gguf;
  gguf.model = options.model;
  return export_gguf(gguf, options.output, common);
}

Result<Exit> run_export(const Options& options, const CommonOptions& common) {
  PARE_CHECK(start_engine(common));
  if (is_gguf(options)) return run_gguf(options, common);
  PARE_TRY(const Device device, chosen_device(common));
  static_cast<void>(device);  // copying and rounding give the same bytes on every one there is
  PARE_CHECK(check_format(options));
  PARE_TRY(const OutputOptions output, output_options(options));
  PARE_TRY(SparseChoice sparse, SparseChoice::parse(options.sparse));
  if (const Dialect* dialect = find_dialect(options.format); dialect != nullptr)
    return export_dialect(options.model, *dialect, output, common);
  PARE_TRY(const OutputKind kind, output_kind(options.output.path));
  const bool to_pare = kind == OutputKind::pare;
  PARE_CHECK(
      check_output(options.output.path, {.force = options.output.force}));  // before any input is touched
  PARE_TRY(const auto source, open_source(options.model, common));
  PARE_TRY(const ModelDescription model, describe_model(*source));
  const uint64_t expected = expected_bytes(options, *source, to_pare);
  PARE_CHECK(check_output_model(*source, output, expected));

  uint64_t largest = 0;  // a tensor as stored, dequantized, and converted
  for (const StoredTensor& tensor : source->tensors()) {
    largest = std::max(largest, tensor.bytes + (sparse.wanted() ? 12u : 8u) * uint64_t(tensor.shape.numel()));
  }
  PARE_CHECK(check_memory(common, largest, "raise --max-memory"));

  const auto start = std::chrono::steady_clock::now();
  Json canonical = Json::object();
  canonical["format"] = to_pare ? "pare" : "safetensors";
  if (!options.sparse.empty()) canonical["sparse"] = options.sparse;
  canonical["dtype"] = output.dense_dtype.empty() ? Json("as stored") : Json(output.dense_dtype);
  PARE_TRY(Manifest manifest, start_manifest(*source, "export", std::move(canonical), common.seed));
  if (to_pare && source->manifest() != nullptr) {
    // The same weights in a new container: what was done to them stays on record.
    manifest.tensors = source->manifest()->tensors;
  }
  PARE_TRY(const auto sink, open_output_model(*source, output, expected));
  int64_t clamped = 0;
  {
    Progress progress("export", int64_t(model.tensors.size()), "tensors");
    for (const TensorSpec& spec : model.tensors) {
      const StoredTensor* stored = source->find(spec.name);
      PARE_TRY(WeightData data, source->load(spec.name));
      if (const auto target = dense_dtype(options); target && !to_pare) {
        PARE_TRY(data, fit_into(std::move(data), *target, options.clamp, spec.name, source->path(), clamped));
      }
      PARE_TRY(data, sparse.apply(std::move(data), spec));
      PARE_CHECK(sink->put(spec.name, data));
      source->release(spec.name);
      if (!to_pare || source->manifest() == nullptr) manifest.tensors.push_back(record_of(*stored, to_pare));
      progress.advance();
    }
  }
  if (sparse.wanted() && sparse.count() == 0) {
    return Error{.exit = Exit::unsupported,
                 .rule = "CL13",
                 .path = "--sparse",
                 .where = {},
                 .what = "no linear is smaller in this form",
                 .got = quote(options.sparse),
                 .limit = {}};
  }
  PARE_CHECK(source->check_unchanged());
  PARE_CHECK(sink->finish(manifest));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  PARE_TRY(const uint64_t bytes, bytes_on_disk(options.output.path));
  if (common.json) {
    Json json = Json::object();
    json["schema_version"] = 1;
    json["command"] = "export";
    json["model"] = options.model;
    json["output"] = options.output.path;
    json["format"] = to_pare ? "pare" : "safetensors";
    json["tensors"] = Json(int64_t(model.tensors.size()));
    json["output_bytes"] = Json(bytes);
    json["clamped_values"] = Json(clamped);
    json["sparse_tensors"] = Json(sparse.count());
    json["seconds"] = seconds;
    add_peak_memory(json);
    print_json(json);
  } else {
    print_line(options.model + " -> " + options.output.path);
    print_line("  " + std::to_string(model.tensors.size()) + " tensors, " + format_bytes(bytes) + " in " +
               format_duration(seconds) + "; re-opened and compared");
    if (sparse.wanted())
      print_line("  " + std::to_string(sparse.count()) + " of them stored without their zeros");
    print_line("pare: done: " + std::to_string(model.tensors.size()) + " tensors, 0 fallback; " +
               std::to_string(clamped) + " values clamped");
  }
  return Exit::ok;
}

}  // namespace

void add_export(CLI::App& app, Commands& commands) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand(
      "export",
      "write a model as .pare, as dense safetensors, or as vLLM and transformers load it quantized");
  verb->add_option("MODEL", options->model, "what to write")->required();
  verb->add_option("-o,--output", options->output.path, "NAME.pare, NAME.gguf, or a directory of safetensors")
      ->required()
      ->type_name("OUT");
  verb->add_option("--format", options->format,
                   "pare, safetensors, or for a model with quantized linears compressed-tensors, gptq or awq "
                   "(default: by the name of OUT)")
      ->check(CLI::IsMember({"pare", "safetensors", "gguf", "compressed-tensors", "gptq", "awq"}))
      ->type_name("FORMAT");
  verb->add_option("--type", options->gguf.type, "GGUF only: type of the matrices, for example Q4_K_M")
      ->check(CLI::IsMember(gguf_export_types()))
      ->type_name("TYPE");
  verb->add_flag("--requantize", options->gguf.requantize,
                 "GGUF only: round weights again that are quantized already");
  verb->add_flag("--plain", options->gguf.plain,
                 "GGUF only: round Q4_0 to Q5_1 as other programs do, without the search for scales");
  verb->add_option("--dtype", options->output.dense_dtype,
                   "type of floating tensors in safetensors: f32, bf16 or f16 (default: as stored; "
                   "dequantized ones f32)")
      ->check(CLI::IsMember({"f32", "bf16", "f16"}))
      ->type_name("TYPE");
  verb->add_option("--max-shard", options->max_shard, "largest size of one safetensors shard (default: 5GB)")
      ->type_name("SIZE");
  verb->add_flag("--clamp", options->clamp,
                 "clamp and count values that --dtype cannot hold, instead of stopping");
  verb->add_option(
          "--sparse", options->sparse,
          ".pare only: store linears without their zeros where that is smaller: auto (the pattern with the "
          "fewest bytes), unstructured, N:M, block-RxC; or off: with them (default: as stored)")
      ->type_name("PATTERN");
  verb->add_flag("--force", options->output.force, "replace an existing output");
  add_common(verb, commands, true);
  verb->footer(
      "The output is re-opened and compared before it appears under its name. compressed-tensors, gptq and "
      "awq take a "
      "model that is already quantized and refuse (exit 4) what the format cannot hold; docs/interop.md says "
      "what.");
  commands.on(verb, [options, &commands] { return run_export(*options, commands.common()); });
}

}  // namespace pare::cli
