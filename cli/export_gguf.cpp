#include "cli/export_gguf.h"

#include <fmt/core.h>

#include <chrono>
#include <cmath>
#include <cstring>

#include "cli/backends.h"
#include "cli/forward_difference.h"
#include "cli/model_argument.h"
#include "engine/core/parallel.h"
#include "engine/core/progress.h"
#include "engine/core/text.h"
#include "engine/core/version.h"
#include "engine/tensor/float_formats.h"
#include "engine/tensor/tensor_scan.h"
#include "formats/gguf/block_layout.h"
#include "formats/gguf/exact_blocks.h"
#include "formats/gguf/export.h"
#include "formats/open_model.h"
#include "quantize/k_quants.h"

namespace pare::cli {
namespace {

constexpr int64_t kRowsPerItem = 16;

struct Written {
  std::vector<std::byte> bytes;
  double squared_error = 0.0, squared_weight = 0.0;
};

struct RowResult {
  BlockFault fault = BlockFault::none;
  double squared_error = 0.0, squared_weight = 0.0;
};

// One row as blocks, and how far what they say is from the row.
RowResult write_blocks(GgufType type, std::span<const float> row, const BlockSearch& search,
                       std::byte* bytes) {
  const GgufTypeInfo& info = gguf_type_info(type);
  const auto width = size_t(info.blocks->block);
  RowResult result;
  for (const float value : row) result.squared_weight += double(value) * double(value);
  const auto mean = float(result.squared_weight / double(row.size()));
  BlockCodes block, read;
  std::array<float, BlockCodes::kMaxBlock> restored;
  for (size_t b = 0; b < row.size() / width; ++b) {
    const auto values = row.subspan(b * width, width);
    const BlockFault fault = quantize_block(*info.blocks, values, {}, mean, search, block);
    if (fault != BlockFault::none) result.fault = fault;
    std::byte* to = bytes + b * info.block_bytes;
    pack_gguf_block(type, block, to);
    unpack_gguf_block(type, to, read);  // what a reader will see, not what was meant
    decode_block(*info.blocks, read, restored.data());
    for (size_t i = 0; i < width; ++i) {
      const double error = double(restored[i]) - double(values[i]);
      result.squared_error += error * error;
    }
  }
  return result;
}

class TensorWriter {
 public:
  TensorWriter(const GgufExportOptions& options, const WeightSource& source)
      : options_(options), source_(source) {}

  Result<Written> make(const GgufPlanned& planned) const {
    const std::string& name = planned.spec->name;
    PARE_TRY(WeightData data, source_.load(name));
    PARE_TRY(data, with_zero_codes(std::move(data), name));
    const GgufTypeInfo& info = gguf_type_info(planned.out.type);
    Written written;
    written.bytes.resize(planned.out.bytes());
    if (data.is_quantized() && holds_exactly(planned.out.type, *data.quantized())) {
      copy_exactly(planned, *data.quantized(), written);
      return written;
    }
    if (data.is_quantized() && info.blocks && !options_.requantize) {
      return Error{.exit = Exit::unsupported,
                   .rule = "GG27",
                   .path = source_.path(),
                   .where = quote(name),
                   .what = fmt::format(
                       "{} does not hold these codes as they are; --requantize rounds them again", info.name),
                   .got = data.quantized()->scheme.text(),
                   .limit = {}};
    }
    PARE_TRY(const Tensor values, as_floats(*planned.spec, data));
    PARE_CHECK(require_finite(values, name, source_.path()));
    PARE_CHECK(info.blocks ? round_blocks(planned, values, written) : convert(planned, values, written));
    return written;
  }

 private:
  // Sparse codes as codes for every weight, removed ones that of 0; without one only where they are rounded
  // anew.
  Result<WeightData> with_zero_codes(WeightData data, const std::string& name) const {
    if (!data.is_sparse() || !data.sparse()->has_codes()) return data;
    auto whole = data.sparse()->to_quantized(source_.path(), name);
    if (!whole && options_.requantize) return data;
    if (!whole) return whole.error();
    data.form = std::make_shared<const QuantizedTensor>(std::move(*whole));
    return data;
  }

  // f32 [out, in], or a vector.
  Result<Tensor> as_floats(const TensorSpec& spec, const WeightData& data) const {
    if (data.is_quantized()) return data.quantized()->dequantize();
    PARE_TRY(Tensor values, data.to_dense_tensor());
    PARE_TRY(values, converted(values, DType::f32));
    if (spec.transposed) return transposed(values);
    return values;
  }

  static int64_t stored_row(const GgufPlanned& planned, int64_t row) {
    return planned.change == GgufChange::permuted ? permuted_row(row, planned.head_dim) : row;
  }

  static void copy_exactly(const GgufPlanned& planned, const QuantizedTensor& tensor, Written& written) {
    const size_t row_bytes = written.bytes.size() / size_t(tensor.out());
    parallel_ranges(tensor.out(), kRowsPerItem, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        exact_row(planned.out.type, tensor, row,
                  written.bytes.data() + size_t(stored_row(planned, row)) * row_bytes);
    });
  }

  Status round_blocks(const GgufPlanned& planned, const Tensor& values, Written& written) const {
    const int64_t out = values.size(0), in = values.size(1);
    const size_t row_bytes = out == 0 ? 0 : written.bytes.size() / size_t(out);
    std::vector<RowResult> rows(static_cast<size_t>(out));
    const BlockSearch search{.search = !options_.plain};
    parallel_ranges(out, kRowsPerItem, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const std::span<const float> from(values.data<float>() + row * in, size_t(in));
        rows[size_t(row)] = write_blocks(planned.out.type, from, search,
                                         written.bytes.data() + size_t(stored_row(planned, row)) * row_bytes);
      }
    });
    for (size_t row = 0; row < rows.size(); ++row) {
      if (rows[row].fault != BlockFault::none)
        return Error{.exit = Exit::numeric,
                     .rule = "NU17",
                     .path = source_.path(),
                     .where = fmt::format("{} row {}", quote(planned.spec->name), row),
                     .what = "scale too large for f16",
                     .got = {},
                     .limit = "65504"};
      written.squared_error += rows[row].squared_error;
      written.squared_weight += rows[row].squared_weight;
    }
    return {};
  }

  Status convert(const GgufPlanned& planned, const Tensor& values, Written& written) const {
    const DType dtype = *gguf_type_info(planned.out.type).dtype;
    int64_t first = -1;
    if (const int64_t count = count_overflow(values, dtype, &first); count > 0) {
      return Error{.exit = Exit::numeric,
                   .rule = "NU03",
                   .path = source_.path(),
                   .where = quote(planned.spec->name) + index_text(values.shape(), first),
                   .what = "value too large for the target type; use BF16 or F32",
                   .got = fmt::format("{} values", count),
                   .limit = "65504"};
    }
    PARE_TRY(const Tensor stored, converted(values, dtype));
    const int64_t rows = planned.change == GgufChange::permuted ? stored.size(0) : 1;
    const size_t row_bytes = rows == 0 ? 0 : written.bytes.size() / size_t(rows);
    for (int64_t row = 0; row < rows && row_bytes > 0; ++row)
      std::memcpy(written.bytes.data() + size_t(stored_row(planned, row)) * row_bytes,
                  stored.raw() + size_t(row) * row_bytes, row_bytes);
    return {};
  }

  const GgufExportOptions& options_;
  const WeightSource& source_;
};

struct Outcome {
  double squared_error = 0.0, squared_weight = 0.0, seconds = 0.0;
  uint64_t bytes = 0;
  ForwardDifference difference;
};

Json report_json(const GgufExportOptions& options, const OutputOptions& output, const GgufPlan& plan,
                 const Outcome& outcome, double relative) {
  Json notes = Json::array();
  for (const std::string& note : plan.notes) notes.push_back(note);
  Json json = Json::object();
  json["schema_version"] = 1;
  json["command"] = "export";
  json["model"] = options.model;
  json["output"] = output.path;
  json["format"] = "gguf";
  json["type"] = options.type;
  json["notes"] = std::move(notes);
  json["tensors"] = Json(uint64_t{plan.tensors.size()});
  json["output_bytes"] = Json(outcome.bytes);
  json["relative_error"] = relative;
  json["max_logit_difference"] = outcome.difference.largest;
  json["max_logit"] = outcome.difference.largest_logit;
  json["seconds"] = outcome.seconds;
  add_peak_memory(json);
  return json;
}

void report(const GgufExportOptions& options, const OutputOptions& output, const GgufPlan& plan,
            const Outcome& outcome, const CommonOptions& common) {
  const double relative =
      outcome.squared_weight > 0.0 ? std::sqrt(outcome.squared_error / outcome.squared_weight) : 0.0;
  if (common.json) return print_json(report_json(options, output, plan, outcome, relative));
  print_line(fmt::format("{} -> {}", options.model, output.path));
  for (const std::string& note : plan.notes) print_line("  " + note);
  print_line(fmt::format(
      "  {} tensors, {} in {}; re-opened and compared; error {:.3g} of the rounded weights",
      plan.tensors.size(), format_bytes(outcome.bytes), format_duration(outcome.seconds), relative));
  print_line(fmt::format("  logits of {} tokens differ by at most {:.3g} (largest logit {:.3g})",
                         outcome.difference.tokens, outcome.difference.largest,
                         outcome.difference.largest_logit));
  print_line(fmt::format("pare: done: {} tensors, {} by another type than {}", plan.tensors.size(),
                         std::count_if(plan.tensors.begin(), plan.tensors.end(),
                                       [](const auto& t) { return !t.reason.empty(); }),
                         options.type));
}

}  // namespace

Result<Exit> export_gguf(const GgufExportOptions& options, const OutputOptions& output,
                         const CommonOptions& common) {
  PARE_TRY(const Device device, chosen_device(common));
  PARE_CHECK(check_output(output.path, {.force = output.force}));
  PARE_TRY(const auto source, open_source(options.model, common));
  PARE_TRY(const ModelDescription model, describe_model(*source));
  PARE_TRY(GgufPlan plan, plan_gguf(*source, model, options.type));
  plan.pairs.add("pare.version", kVersion);
  uint64_t largest = 0;
  for (const StoredTensor& tensor : source->tensors())
    largest = std::max(largest, tensor.bytes + 12 * uint64_t(tensor.shape.numel()));
  PARE_CHECK(check_memory(common, largest, "raise --max-memory"));

  const auto start = std::chrono::steady_clock::now();
  std::vector<GgufSpec> specs;
  for (const GgufPlanned& planned : plan.tensors) specs.push_back(planned.out);
  WriteOptions write{.force = output.force, .expected_bytes = 0, .inputs = source->file_identities()};
  PARE_TRY(GgufWriter writer, GgufWriter::create(output.path, write, plan.pairs, std::move(specs)));
  const TensorWriter tensors(options, *source);
  Outcome outcome;
  {
    Progress progress("export", int64_t(plan.tensors.size()), "tensors");
    for (const GgufPlanned& planned : plan.tensors) {
      if (planned.spec == nullptr) {
        PARE_CHECK(writer.write(std::as_bytes(std::span(plan.rope_factors))));
      } else {
        PARE_TRY(const Written written, tensors.make(planned));
        PARE_CHECK(writer.write(written.bytes));
        outcome.squared_error += written.squared_error;
        outcome.squared_weight += written.squared_weight;
        source->release(planned.spec->name);
      }
      progress.advance();
    }
  }
  PARE_CHECK(source->check_unchanged());
  PARE_CHECK(writer.finish());
  PARE_TRY(const auto back, open_model(output.path));
  PARE_TRY(outcome.difference, forward_difference(source, back, device));
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  PARE_TRY(outcome.bytes, bytes_on_disk(output.path));
  report(options, output, plan, outcome, common);
  return Exit::ok;
}

}  // namespace pare::cli
