#include "quantize/stream.h"

#include <algorithm>

#include "calibrate/block_job.h"
#include "calibrate/input_check.h"
#include "engine/core/memory.h"
#include "engine/core/text.h"
#include "engine/tensor/tensor_scan.h"
#include "quantize/sparse_codes.h"

namespace pare {
namespace {

std::vector<int64_t> sizes_of(const Shape& shape) {
  return {shape.sizes().begin(), shape.sizes().end()};
}

TensorRecord quantized(const TensorSpec& spec, const QuantizeOutput& output, const QuantizeMethod& method,
                       const QuantizeOptions& options) {
  TensorRecord record;
  record.name = spec.name;
  record.kind = "quantized";
  record.scheme = output.tensor.scheme.text();
  record.shape = sizes_of(output.tensor.shape);
  record.method_asked = record.method_applied =
      std::string(method.name) + (options.clip_search ? "+clip" : "");
  record.relative_error = output.relative_error;
  record.max_error = output.max_error;
  record.bits_per_weight = output.tensor.scheme.bits_per_weight(output.tensor.out(), output.tensor.in());
  if (options.clip_search) {
    record.clipped_share =
        double(output.clipped_weights) / double(std::max<int64_t>(1, output.tensor.shape.numel()));
  }
  if (output.tensor.activation) record.extra["activation"] = output.tensor.activation->text();
  if (output.raised_scales > 0) record.extra["raised_scales"] = Json(output.raised_scales);
  if (output.clamped_scales > 0) record.extra["clamped_scales"] = Json(output.clamped_scales);
  return record;
}

}  // namespace

QuantizePlan plan_quantization(const WeightSource& source, const ModelDescription& model,
                               const std::vector<std::optional<QuantScheme>>& schemes) {
  QuantizePlan plan;
  uint64_t quantized_bytes = 0;
  for (size_t i = 0; i < model.tensors.size(); ++i) {
    const TensorSpec& spec = model.tensors[i];
    const StoredTensor* stored = source.find(spec.name);
    if (stored == nullptr) continue;
    plan.input_bytes += stored->bytes;
    plan.parameters += spec.shape.numel();
    if (!schemes[i]) {
      plan.output_bytes += stored->bytes;
      ++plan.kept_tensors;
      plan.peak_memory_bytes = std::max(plan.peak_memory_bytes, stored->bytes);
      continue;
    }
    const uint64_t bytes = planned_codes_bytes(*stored, *schemes[i], spec);
    plan.output_bytes += bytes;
    quantized_bytes += bytes;
    ++plan.quantized_tensors;
    plan.quantized_parameters += spec.shape.numel();
    const uint64_t copies = spec.transposed ? 2 : 1;  // a Conv1D weight is transposed into a second buffer
    const uint64_t dense = uint64_t(spec.shape.numel() * dtype_bits(stored->dtype)) / 8;
    const uint64_t whole = stored->is_dense() ? stored->bytes : stored->bytes + dense;
    plan.peak_memory_bytes = std::max(plan.peak_memory_bytes, copies * whole + bytes);
  }
  if (plan.quantized_parameters > 0) {
    plan.bits_per_weight = 8.0 * double(quantized_bytes) / double(plan.quantized_parameters);
  }
  return plan;
}

Status quantize_stream(const WeightSource& source, const ModelDescription& model,
                       const std::vector<std::optional<QuantScheme>>& schemes, const QuantizeMethod& method,
                       const QuantizeOptions& options, WeightSink& sink, Manifest& manifest,
                       const std::function<Status(uint64_t bytes)>& advance) {
  for (size_t i = 0; i < model.tensors.size(); ++i) {
    const TensorSpec& spec = model.tensors[i];
    const StoredTensor* stored = source.find(spec.name);
    if (stored == nullptr) continue;
    if (schemes[i] && !can_be_quantized(*stored)) return already_quantized(source, *stored);
    PARE_TRY(WeightData data, source.load(spec.name));
    if (!schemes[i]) {
      if (data.is_dense()) PARE_CHECK(require_finite(data.dense(), spec.name, source.path()));
      PARE_CHECK(sink.put(spec.name, data));
      manifest.tensors.push_back(copied_record(*stored));
    } else {
      PARE_TRY(Tensor weight, data.to_dense_tensor());
      // Checked before the transposition, so that the position named is the one in the file.
      PARE_CHECK(require_finite(weight, spec.name, source.path()));
      if (!is_weight_dtype(weight.dtype()) || dtype_bits(weight.dtype()) < 16) {
        PARE_TRY(weight, converted(weight, DType::f32));
      }
      if (spec.transposed) {
        PARE_TRY(weight, transposed(weight));
      }
      PARE_TRY(const auto held, zeros_to_hold(weight, *schemes[i], spec.name));
      static_cast<void>(held);  // plain rounding leaves zeros where they are
      auto output = method.quantize(weight, *schemes[i], options, spec.name);
      if (!output) {
        if (output.error().path.empty()) output.error().path = source.path();
        return output.error();
      }
      if (spec.is_linear) output->tensor.activation = options.activation;
      TensorRecord record = quantized(spec, *output, method, options);
      WeightData codes{.form = std::make_shared<const QuantizedTensor>(std::move(output->tensor)),
                       .transposed = spec.transposed};
      sample_private_bytes();
      PARE_CHECK(keep_sparse(source, spec, codes, record));
      PARE_CHECK(sink.put(spec.name, codes));
      manifest.tensors.push_back(std::move(record));
    }
    source.release(spec.name);
    PARE_CHECK(advance(stored->bytes));
  }
  return source.check_unchanged();
}

}  // namespace pare
