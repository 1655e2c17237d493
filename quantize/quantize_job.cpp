#include "quantize/quantize_job.h"

#include "calibrate/input_check.h"
#include "engine/tensor/tensor_scan.h"
#include "quantize/sparse_codes.h"

namespace pare {
namespace {

// The table of an embedding or a head, rounded to nearest.
Status round_table(const QuantizeJob& job, const TensorSpec& spec, const QuantScheme& scheme,
                   WeightData& data, TensorRecord& record) {
  const StoredTensor& stored = *job.source->find(spec.name);
  if (!can_be_quantized(stored)) return already_quantized(*job.source, stored);
  PARE_TRY(const QuantizeMethod* rtn, find_quantize_method("rtn"));
  QuantizeOptions options;
  options.clamp_scales = job.options.quantize.clamp_scales;
  if (scheme.bits < 8 && scheme.granularity != QuantScheme::Granularity::tensor) {
    options.clip_search = true;
    options.clip.power = 2.0;
  }
  PARE_TRY(const Tensor table, data.to_dense_tensor());
  auto output = rtn->quantize(table, scheme, options, spec.name);
  if (!output) {
    if (output.error().path.empty()) output.error().path = job.source->path();
    return output.error();
  }
  record = {};
  record.name = spec.name;
  record.kind = "quantized";
  record.scheme = scheme.text();
  record.shape = {spec.out(), spec.in()};
  record.method_asked = record.method_applied = options.clip_search ? "rtn+mse" : "rtn";
  record.relative_error = output->relative_error;
  record.max_error = output->max_error;
  record.bits_per_weight = scheme.bits_per_weight(spec.out(), spec.in());
  if (output->raised_scales > 0) record.extra["raised_scales"] = Json(output->raised_scales);
  if (output->clamped_scales > 0) record.extra["clamped_scales"] = Json(output->clamped_scales);
  data = WeightData{.form = std::make_shared<const QuantizedTensor>(std::move(output->tensor))};
  return {};
}

}  // namespace

Result<BlockJobResult> compress_blocks(const QuantizeJob& job, JobFolder& folder) {
  // Before the first block only: a resumed job has looked.
  PARE_TRY(const std::vector<Json> done, block_notes(folder));
  if (done.empty()) PARE_CHECK(check_inputs(*job.source, job.model, job.schemes));
  CalibratedStep step(job.model, job.schemes, job.options);
  return run_blocks(job, step, folder);
}

Status write_compressed(const QuantizeJob& job, const JobFolder& folder, WeightSink& sink,
                        Manifest& manifest) {
  const auto round = [&](const TensorSpec& spec, WeightData& data, TensorRecord& record) -> Status {
    if (spec.is_linear) return keep_sparse(*job.source, spec, data, record);
    for (size_t i = 0; i < job.model.tensors.size(); ++i) {
      if (job.model.tensors[i].name == spec.name && job.schemes[i])
        return round_table(job, spec, *job.schemes[i], data, record);
    }
    return {};
  };
  return write_changed(job, folder, round, sink, manifest);
}

}  // namespace pare
