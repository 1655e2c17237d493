#include "cli/distill_output.h"

#include <cmath>
#include <memory>
#include <set>
#include <utility>

#include "calibrate/block_job.h"
#include "cli/sparse_choice.h"
#include "engine/core/text.h"
#include "engine/tensor/tensor_scan.h"
#include "evaluate/run_report.h"

namespace pare::cli {
namespace {

bool is_pare_file(const std::string& path) {
  return path.ends_with(".pare");
}

std::optional<DType> asked_type(const DistillArguments& arguments) {
  const std::string& name = arguments.output.dense_dtype;
  if (name.empty()) return std::nullopt;
  return name == "bf16" ? DType::bf16 : name == "f16" ? DType::f16 : DType::f32;
}

// The type of a trained tensor in the output.
DType type_of(const StoredTensor& stored, const DistillArguments& arguments, const ModelConfig& config) {
  if (const auto asked = asked_type(arguments)) return *asked;
  // Factors added to codes make a dense matrix.
  return stored.is_quantized() || !is_weight_dtype(stored.dtype) ? config.stored_dtype : stored.dtype;
}

// Values rounded to a type; a value that it cannot hold is exit 7.
Result<Tensor> in_type(const Tensor& values, DType type, const std::string& name, const std::string& path) {
  PARE_CHECK(require_finite(values, name, path));
  if (values.dtype() == type) return values;
  int64_t first = -1;
  if (const int64_t count = count_overflow(values, type, &first); count > 0)
    return Error{.exit = Exit::numeric,
                 .rule = "NU03",
                 .path = path,
                 .where = quote(name) + index_text(values.shape(), first),
                 .what = "a trained value overflows " + std::string(dtype_name(type)) + "; say --dtype f32",
                 .got = std::to_string(count),
                 .limit = "0"};
  return converted(values, type);
}

Result<WeightData> in_type(WeightData data, DType type, const std::string& name, const std::string& path) {
  if (data.is_dense()) {
    PARE_TRY(data.form, in_type(data.dense(), type, name, path));
    return data;
  }
  if (!data.is_low_rank()) return data;
  auto factors = std::make_shared<LowRankTensor>(*data.low_rank());
  PARE_TRY(factors->left, in_type(factors->left, type, name, path));
  PARE_TRY(factors->right, in_type(factors->right, type, name, path));
  data.form = std::shared_ptr<const LowRankTensor>(std::move(factors));
  return data;
}

// ||after - before|| / ||before|| of the values a tensor stands for.
Result<double> relative_change(const WeightData& before, const WeightData& after) {
  PARE_TRY(const Tensor from, before.to_dense_tensor());
  PARE_TRY(const Tensor to, after.to_dense_tensor());
  PARE_TRY(const Tensor a, converted(from, DType::f32));
  PARE_TRY(const Tensor b, converted(to, DType::f32));
  double change = 0.0, total = 0.0;
  const float *x = a.data<float>(), *y = b.data<float>();
  for (int64_t i = 0; i < a.numel(); ++i) {
    const double difference = double(y[i]) - double(x[i]);
    change += difference * difference;
    total += double(x[i]) * double(x[i]);
  }
  return total > 0.0 ? std::sqrt(change / total) : std::sqrt(change);
}

// Names of the checkpoint's tensors that were trained: parameters may be parts of one.
std::set<std::string> trained_names(const TrainingModel& student) {
  std::set<std::string> names;
  for (const auto& parameter : student.parameters())
    names.insert(parameter->name.substr(0, parameter->name.find(':')));
  return names;
}

const char* method_of(const DistillArguments& arguments, const WeightData& data) {
  if (!data.is_quantized()) return arguments.command();
  return arguments.is_distill ? "qad" : "qat";
}

Status put_all(const DistillArguments& arguments, const DistillSettings& settings,
               const DistillModels& models, const TrainingModel& student, WeightSink& sink,
               Manifest& manifest) {
  const WeightSource& source = *models.student;
  const std::set<std::string> trained = trained_names(student);
  const bool is_compact = is_pare_file(arguments.output.path) && settings.keeps_masks;
  PARE_TRY(SparseChoice sparse, SparseChoice::parse(is_compact ? "auto" : ""));
  for (const TensorSpec& spec : models.student_model.tensors) {
    const StoredTensor& stored = *source.find(spec.name);
    if (!trained.contains(spec.name)) {
      PARE_TRY(const WeightData data, source.load(spec.name));
      PARE_CHECK(sink.put(spec.name, data));
      manifest.tensors.push_back(copied_record(stored));
      source.release(spec.name);
      continue;
    }
    PARE_TRY(WeightData data, student.stored(spec));
    const DType type = type_of(stored, arguments, models.student_model.config);
    PARE_TRY(data, in_type(std::move(data), type, spec.name, arguments.output.path));
    PARE_TRY(const WeightData before, source.load(spec.name));
    TensorRecord record;
    record.name = spec.name;
    record.method_asked = record.method_applied = method_of(arguments, data);
    PARE_TRY(record.extra["relative_change"], relative_change(before, data));
    source.release(spec.name);
    if (const QuantizedTensor* codes = data.is_quantized() ? data.quantized().get() : nullptr) {
      record.bits_per_weight =
          8.0 * double(codes->scheme.stored_bytes(spec.out(), spec.in())) / double(spec.shape.numel());
      record.kind = "quantized";
      record.scheme = codes->scheme.text();
    }
    if (is_compact && spec.is_linear) {
      PARE_TRY(data, sparse.apply(std::move(data), spec));
    }
    PARE_CHECK(sink.put(spec.name, data));
    manifest.tensors.push_back(std::move(record));
  }
  return {};
}

}  // namespace

uint64_t expected_output_bytes(const DistillArguments& arguments, const DistillSettings& settings,
                               const DistillModels& models) {
  uint64_t bytes = 0;
  for (const TensorSpec& spec : models.student_model.tensors) {
    const StoredTensor& stored = *models.student->find(spec.name);
    const bool keeps_codes = is_pare_file(arguments.output.path);
    if (settings.scheme && spec.is_linear) {
      bytes += keeps_codes ? settings.scheme->stored_bytes(spec.out(), spec.in())
                           : 4 * uint64_t(spec.shape.numel());
      continue;
    }
    if (stored.is_low_rank() && keeps_codes && arguments.lora == 0) {
      bytes += stored.bytes;
      continue;
    }
    const DType type = type_of(stored, arguments, models.student_model.config);
    bytes += uint64_t(spec.shape.numel()) * uint64_t(dtype_bytes(type));
  }
  return bytes;
}

Result<Manifest> write_trained(const DistillArguments& arguments, const DistillSettings& settings,
                               const DistillModels& models, const TrainingModel& student, JobFolder& folder,
                               TrainingPosition& position, Manifest manifest) {
  OutputOptions output = arguments.output;
  output.force = output.force || arguments.resume;
  const uint64_t expected = expected_output_bytes(arguments, settings, models);
  PARE_TRY(const auto sink, open_output_model(*models.student, output, expected));
  Manifest stored;
  sink->before_publish([&](const Manifest& whole) {
    stored = whole;
    position.output = manifest_hash(whole);
    return commit_training(folder, position);
  });
  PARE_CHECK(put_all(arguments, settings, models, student, *sink, manifest));
  PARE_CHECK(sink->finish(manifest));
  return stored;
}

}  // namespace pare::cli
