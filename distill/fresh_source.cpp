#include "distill/fresh_source.h"

#include <cmath>
#include <utility>

#include "engine/core/hash.h"
#include "engine/core/limits.h"
#include "engine/core/parallel.h"
#include "engine/core/random.h"

namespace pare {
namespace {

constexpr int64_t kPiece = 16'384;  // elements

bool is_gain(Role role) {
  switch (role) {
    case Role::input_norm:
    case Role::post_attention_norm:
    case Role::final_norm:
    case Role::query_norm:
    case Role::key_norm:
      return true;
    default:
      return false;
  }
}

bool is_bias(Role role) {
  return role == Role::bias || role == Role::input_norm_bias || role == Role::post_attention_norm_bias ||
         role == Role::final_norm_bias;
}

void fill(Tensor& values, float value) {
  float* to = values.mutable_data<float>();
  for (int64_t i = 0; i < values.numel(); ++i) to[i] = value;
}

void fill_normal(Tensor& values, const Random& random, float deviation) {
  float* to = values.mutable_data<float>();
  parallel_ranges(values.numel(), kPiece, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = deviation * random.normal(uint64_t(i));
  });
}

}  // namespace

Result<std::shared_ptr<const FreshSource>> FreshSource::create(const std::string& path, std::string text,
                                                               std::vector<Asset> assets, uint64_t seed) {
  std::shared_ptr<FreshSource> source(new FreshSource());
  source->path_ = path;
  source->config_text_ = std::move(text);
  source->seed_ = seed;
  source->assets_ = std::move(assets);
  PARE_TRY(source->config_,
           parse_json(source->config_text_, path, {.max_bytes = limits::kConfigBytes}, "CF01"));
  if (const Json* range = source->config_.find("initializer_range"); range != nullptr && range->is_number())
    if (range->as_double() > 0.0 && range->as_double() < 1.0) source->deviation_ = range->as_double();
  // Here, so that errors name the file; describe_model() below checks the whole.
  PARE_TRY(const Architecture* family, find_architecture(source->config_, path));
  PARE_TRY(const ModelConfig config, family->configure(source->config_, path));
  for (const TensorSpec& spec : family->describe(config, family->prefixes.front())) {
    StoredTensor tensor;
    tensor.name = spec.name;
    tensor.shape = spec.shape;
    source->tensors_.push_back(std::move(tensor));
    source->specs_[spec.name] = spec;
  }
  PARE_TRY(const ModelDescription model, describe_model(*source));
  source->model_ = model.config;
  for (StoredTensor& tensor : source->tensors_) {
    tensor.dtype = source->model_.stored_dtype;
    tensor.bytes = uint64_t(tensor.shape.numel()) * uint64_t(dtype_bytes(tensor.dtype));
  }
  return std::shared_ptr<const FreshSource>(std::move(source));
}

const StoredTensor* FreshSource::find(std::string_view name) const {
  for (const StoredTensor& tensor : tensors_)
    if (tensor.name == name) return &tensor;
  return nullptr;
}

Result<WeightData> FreshSource::load(std::string_view name) const {
  const auto found = specs_.find(name);
  if (found == specs_.end())
    return Error{.exit = Exit::malformed,
                 .rule = "ST26",
                 .path = path_,
                 .where = std::string(name),
                 .what = "no such tensor"};
  const TensorSpec& spec = found->second;
  PARE_TRY(Tensor values, Tensor::allocate(DType::f32, spec.shape));
  if (is_gain(spec.role)) {
    fill(values, model_.norm == ModelConfig::Norm::rms_plus_one ? 0.0f : 1.0f);
  } else if (is_bias(spec.role)) {
    fill(values, 0.0f);
  } else {
    const bool ends_branch = spec.role == Role::attention_output || spec.role == Role::down;
    const double scale = ends_branch ? 1.0 / std::sqrt(2.0 * double(model_.block_count())) : 1.0;
    fill_normal(values, Random(seed_, RandomPurpose::initialisation, name), float(deviation_ * scale));
  }
  WeightData data;
  PARE_TRY(data.form, converted(values, model_.stored_dtype));
  return data;
}

Result<Json> FreshSource::hash_inputs() const {
  Json json = Json::object();
  json["name"] = "config.json";
  json["bytes"] = Json(uint64_t(config_text_.size()));
  json["xxh3_128"] = xxh3_128(std::string_view(config_text_)).hex();
  Json list = Json::array();
  list.push_back(std::move(json));
  return list;
}

}  // namespace pare
