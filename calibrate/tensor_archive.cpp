#include "calibrate/tensor_archive.h"

#include <array>
#include <cstring>
#include <utility>

#include "engine/core/text.h"

namespace pare {
namespace {

constexpr uint64_t kAlignment = 64;
constexpr std::array<std::byte, kAlignment> kZeros = {};

std::span<const std::byte> bytes_of(const Tensor& tensor) {
  return {tensor.raw(), tensor.size_bytes()};
}

Json shape_json(const Shape& shape) {
  Json list = Json::array();
  for (const int64_t size : shape.sizes()) list.push_back(Json(size));
  return list;
}

// The parts of a quantized tensor by role, in a fixed order; undefined ones are absent from files.
std::array<std::pair<const char*, Tensor*>, 6> parts_of(QuantizedTensor& tensor) {
  return {{{"codes", &tensor.codes},
           {"scales", &tensor.scales},
           {"zero_points", &tensor.zero_points},
           {"minimums", &tensor.minimums},
           {"group_index", &tensor.group_index},
           {"codebook", &tensor.codebook}}};
}

// Collects spans and offsets of one object.
class ObjectBuilder {
 public:
  Json add(const char* role, const Tensor& tensor) {
    Json part = Json::object();
    part["role"] = role;
    part["offset"] = Json(size_);
    part["bytes"] = Json(uint64_t(tensor.size_bytes()));
    spans_.push_back(bytes_of(tensor));
    size_ += tensor.size_bytes();
    if (const uint64_t over = size_ % kAlignment) {
      spans_.push_back(std::span(kZeros).first(kAlignment - over));
      size_ += kAlignment - over;
    }
    return part;
  }
  const std::vector<std::span<const std::byte>>& spans() const { return spans_; }

 private:
  std::vector<std::span<const std::byte>> spans_;
  uint64_t size_ = 0;
};

Error damaged(const JobFolder& job, std::string_view name) {
  return Error{.exit = Exit::malformed,
               .rule = {},
               .path = job.path(),
               .where = quote(name),
               .what = "the job's record of this tensor does not fit its object; --restart begins anew",
               .got = {},
               .limit = {}};
}

// Copies a described part into `target`; false when it does not fit.
bool fill(const Json& description, const char* role, std::span<const std::byte> object, Tensor& target) {
  const Json* parts = description.find("parts");
  if (parts == nullptr || !parts->is_array()) return false;
  for (const Json& part : parts->items()) {
    const Json* name = part.find("role");
    const Json* offset = part.find("offset");
    const Json* bytes = part.find("bytes");
    if (name == nullptr || !name->is_string() || offset == nullptr || !offset->is_integer() ||
        bytes == nullptr || !bytes->is_integer() || offset->as_int() < 0 || bytes->as_int() < 0)
      return false;
    if (name->as_string() != role) continue;
    if (bytes->as_uint() != target.size_bytes() || offset->as_uint() > object.size() ||
        object.size() - offset->as_uint() < bytes->as_uint())
      return false;
    std::memcpy(target.mutable_raw(), object.data() + offset->as_uint(), target.size_bytes());
    return true;
  }
  return false;
}

std::optional<Shape> read_shape(const Json* json) {
  if (json == nullptr || !json->is_array() || json->size() == 0 || json->size() > 2) return std::nullopt;
  std::vector<int64_t> sizes;
  for (const Json& size : json->items()) {
    if (!size.is_integer() || size.as_int() < 0) return std::nullopt;
    sizes.push_back(size.as_int());
  }
  return sizes.size() == 1 ? Shape{sizes[0]} : Shape{sizes[0], sizes[1]};
}

Result<WeightData> read_quantized(const JobFolder& job, const std::string& name, const Json& description,
                                  std::span<const std::byte> object) {
  const Json* scheme_json = description.find("scheme");
  const std::optional<Shape> shape = read_shape(description.find("shape"));
  const Json* transposed = description.find("transposed");
  if (scheme_json == nullptr || !shape || shape->rank() != 2 || transposed == nullptr ||
      !transposed->is_bool())
    return damaged(job, name);
  PARE_TRY(const QuantScheme scheme, QuantScheme::from_json(*scheme_json, job.path(), name));
  PARE_TRY(QuantizedTensor tensor, QuantizedTensor::allocate(scheme, (*shape)[0], (*shape)[1]));
  const auto has = [&](std::string_view role) {
    for (const Json& part : description.find("parts")->items())
      if (part.find("role")->as_string() == role) return true;
    return false;
  };
  if (description.find("parts") == nullptr || !description.find("parts")->is_array())
    return damaged(job, name);
  if (has("group_index")) {
    PARE_TRY(tensor.group_index, Tensor::allocate(DType::i32, {(*shape)[1]}));
  }
  if (has("codebook")) {
    PARE_TRY(tensor.codebook, Tensor::allocate(DType::f32, {scheme.code_count()}));
  }
  for (const auto& [role, part] : parts_of(tensor))
    if (part->defined() && !fill(description, role, object, *part)) return damaged(job, name);
  if (const Json* activation = description.find("activation")) {
    PARE_TRY(tensor.activation, ActivationQuant::from_json(*activation, job.path(), name));
  }
  PARE_CHECK(tensor.validate(job.path(), name));
  return WeightData{.form = std::make_shared<const QuantizedTensor>(std::move(tensor)),
                    .transposed = transposed->as_bool()};
}

}  // namespace

Result<Json> put_tensors(JobFolder& job, const std::vector<ArchivedTensor>& tensors) {
  ObjectBuilder object;
  Json list = Json::array();
  for (const ArchivedTensor& tensor : tensors) {
    Json entry = Json::object();
    entry["name"] = tensor.name;
    Json parts = Json::array();
    if (tensor.data.is_quantized()) {
      QuantizedTensor quantized = *tensor.data.quantized();
      entry["form"] = "quantized";
      entry["scheme"] = quantized.scheme.to_json();
      entry["shape"] = shape_json(quantized.shape);
      entry["transposed"] = tensor.data.transposed;
      if (quantized.activation) entry["activation"] = quantized.activation->to_json();
      for (const auto& [role, part] : parts_of(quantized))
        if (part->defined()) parts.push_back(object.add(role, *part));
    } else {
      const Tensor& dense = tensor.data.dense();
      entry["form"] = "dense";
      entry["dtype"] = std::string(dtype_name(dense.dtype()));
      entry["shape"] = shape_json(dense.shape());
      parts.push_back(object.add("values", dense));
    }
    entry["parts"] = std::move(parts);
    list.push_back(std::move(entry));
  }
  PARE_TRY(const Hash128 hash, job.put(object.spans()));
  Json description = Json::object();
  description["object"] = hash.hex();
  description["tensors"] = std::move(list);
  return description;
}

Result<std::vector<ArchivedTensor>> get_tensors(const JobFolder& job, const Json& description) {
  const Json* name_of_object = description.find("object");
  const Json* list = description.find("tensors");
  if (name_of_object == nullptr || !name_of_object->is_string() || list == nullptr || !list->is_array())
    return damaged(job, "object");
  const std::optional<Hash128> hash = Hash128::from_hex(name_of_object->as_string());
  if (!hash) return damaged(job, "object");
  PARE_TRY(const auto file, job.get(*hash));
  std::vector<ArchivedTensor> tensors;
  for (const Json& entry : list->items()) {
    const Json* name = entry.find("name");
    const Json* form = entry.find("form");
    if (name == nullptr || !name->is_string() || form == nullptr || !form->is_string())
      return damaged(job, "tensor");
    ArchivedTensor tensor{.name = name->as_string(), .data = {}};
    if (form->as_string() == "quantized") {
      PARE_TRY(tensor.data, read_quantized(job, tensor.name, entry, file->bytes()));
    } else {
      const Json* dtype = entry.find("dtype");
      const std::optional<Shape> shape = read_shape(entry.find("shape"));
      const std::optional<DType> type =
          dtype != nullptr && dtype->is_string() ? dtype_from_name(dtype->as_string()) : std::nullopt;
      if (!type || !shape) return damaged(job, tensor.name);
      PARE_TRY(Tensor dense, Tensor::allocate(*type, *shape));
      if (!fill(entry, "values", file->bytes(), dense)) return damaged(job, tensor.name);
      tensor.data.form = std::move(dense);
    }
    tensors.push_back(std::move(tensor));
  }
  file->drop(0, file->bytes().size());
  return tensors;
}

}  // namespace pare
