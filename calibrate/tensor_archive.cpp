#include "calibrate/tensor_archive.h"

#include <array>
#include <cstring>
#include <map>
#include <utility>

#include "engine/core/checked.h"
#include "engine/core/text.h"

namespace pare {
namespace {

constexpr uint64_t kAlignment = 64;
constexpr std::array<std::byte, kAlignment> kZeros = {};

// The parts of a form by role, in a fixed order; undefined ones are absent from descriptions. The fields of a
// non-const form can be filled by them.
using Parts = std::vector<std::pair<const char*, Tensor*>>;

Parts parts_of(QuantizedTensor& tensor) {
  return {{"codes", &tensor.codes},
          {"scales", &tensor.scales},
          {"zero_points", &tensor.zero_points},
          {"minimums", &tensor.minimums},
          {"group_index", &tensor.group_index},
          {"codebook", &tensor.codebook}};
}

Parts parts_of(SparseTensor& tensor) {
  return {{"mask", &tensor.mask},
          {"indices", &tensor.indices},
          {"row_pointers", &tensor.row_pointers},
          {"values", &tensor.values},
          {"codes", &tensor.codes},
          {"scales", &tensor.scales},
          {"zero_points", &tensor.zero_points},
          {"minimums", &tensor.minimums},
          {"codebook", &tensor.codebook}};
}

Parts parts_of(LowRankTensor& tensor) {
  return {{"left", &tensor.left}, {"right", &tensor.right}};
}

Parts parts_of(Tensor& values) {
  return {{"values", &values}};
}

Json shape_json(const Shape& shape) {
  Json list = Json::array();
  for (const int64_t size : shape.sizes()) list.push_back(Json(size));
  return list;
}

// Collects spans and offsets of one object. The tensors must outlive it.
class ObjectBuilder {
 public:
  Json add(const Parts& parts) {
    Json list = Json::array();
    for (const auto& [role, tensor] : parts)
      if (tensor->defined()) list.push_back(add(role, *tensor));
    return list;
  }
  const std::vector<std::span<const std::byte>>& spans() const { return spans_; }

 private:
  Json add(const char* role, const Tensor& tensor) {
    Json part = Json::object();
    part["role"] = role;
    part["dtype"] = std::string(dtype_name(tensor.dtype()));
    part["shape"] = shape_json(tensor.shape());
    part["offset"] = Json(size_);
    part["bytes"] = Json(uint64_t(tensor.size_bytes()));
    PARE_ASSERT(tensor.is_contiguous(), "[archive] {} has gaps", role);
    spans_.push_back({tensor.raw(), tensor.size_bytes()});
    size_ += tensor.size_bytes();
    if (const uint64_t over = size_ % kAlignment) {
      spans_.push_back(std::span(kZeros).first(kAlignment - over));
      size_ += kAlignment - over;
    }
    return part;
  }

  std::vector<std::span<const std::byte>> spans_;
  uint64_t size_ = 0;
};

// The description of a form: what is not in its parts, and these.
Json describe(const Tensor& values, ObjectBuilder& object) {
  Json entry = Json::object();
  entry["form"] = "dense";
  Tensor copy = values;
  entry["parts"] = object.add(parts_of(copy));
  return entry;
}

Json describe(const QuantizedTensor& tensor, ObjectBuilder& object) {
  Json entry = Json::object();
  entry["form"] = "quantized";
  entry["shape"] = shape_json(tensor.shape);
  entry["scheme"] = tensor.scheme.to_json();
  if (tensor.activation) entry["activation"] = tensor.activation->to_json();
  QuantizedTensor copy = tensor;
  entry["parts"] = object.add(parts_of(copy));
  return entry;
}

Json describe(const SparseTensor& tensor, ObjectBuilder& object) {
  Json entry = Json::object();
  entry["form"] = "sparse";
  entry["shape"] = shape_json(tensor.shape);
  entry["pattern"] = tensor.pattern.text();
  if (tensor.scheme) entry["scheme"] = tensor.scheme->to_json();
  if (tensor.activation) entry["activation"] = tensor.activation->to_json();
  SparseTensor copy = tensor;
  entry["parts"] = object.add(parts_of(copy));
  return entry;
}

Json describe(const LowRankTensor& tensor, ObjectBuilder& object) {
  Json entry = Json::object();
  entry["form"] = "low_rank";
  entry["shape"] = shape_json(tensor.shape);
  LowRankTensor copy = tensor;
  entry["parts"] = object.add(parts_of(copy));
  if (const Tensor* dense = tensor.dense_base()) entry["base"] = describe(*dense, object);
  if (const QuantizedTensor* quantized = tensor.quantized_base())
    entry["base"] = describe(*quantized, object);
  if (const SparseTensor* sparse = tensor.sparse_base()) entry["base"] = describe(*sparse, object);
  return entry;
}

Json describe(const WeightData& data, ObjectBuilder& object) {
  if (data.is_dense()) return describe(data.dense(), object);
  if (data.is_quantized()) return describe(*data.quantized(), object);
  if (data.is_sparse()) return describe(*data.sparse(), object);
  return describe(*data.low_rank(), object);
}

std::optional<Shape> read_shape(const Json* json) {
  if (json == nullptr || !json->is_array() || json->size() > size_t(Shape::kMaxRank)) return std::nullopt;
  std::vector<int64_t> sizes;
  for (const Json& size : json->items()) {
    if (!size.is_integer() || size.kind() == Json::Kind::unsigned_integer || size.as_int() < 0)
      return std::nullopt;
    sizes.push_back(size.as_int());
  }
  return Shape(std::span<const int64_t>(sizes));
}

// Bytes of a tensor that a description speaks of; nothing when they overflow.
std::optional<uint64_t> bytes_of(DType dtype, const Shape& shape) {
  Checked bits = uint64_t(dtype_bits(dtype));
  for (const int64_t size : shape.sizes()) bits *= uint64_t(size);
  const Checked bytes = bits.divided_up(8);
  return bytes.valid() ? std::optional(bytes.value()) : std::nullopt;
}

// Reads the forms of one tensor out of an object.
class FormReader {
 public:
  FormReader(const std::string& job, const std::string& name, std::span<const std::byte> object)
      : job_(job), name_(name), object_(object) {}

  Error damaged() const {
    return Error{.exit = Exit::malformed,
                 .rule = {},
                 .path = job_,
                 .where = quote(name_),
                 .what = "the job's record of this tensor does not fit its object; --restart begins anew",
                 .got = {},
                 .limit = {}};
  }

  Result<WeightData> read(const Json& entry) const {
    WeightData data;
    if (is_form(entry, "dense")) {
      PARE_TRY(data.form, dense(entry));
    } else if (is_form(entry, "quantized")) {
      PARE_TRY(data.form, quantized(entry));
    } else if (is_form(entry, "sparse")) {
      PARE_TRY(data.form, sparse(entry));
    } else if (is_form(entry, "low_rank")) {
      PARE_TRY(data.form, low_rank(entry));
    } else {
      return damaged();
    }
    if (const Json* transposed = entry.find("transposed")) {
      if (!transposed->is_bool()) return damaged();
      data.transposed = transposed->as_bool();
    }
    PARE_CHECK(data.validate(job_, name_));
    return data;
  }

 private:
  static bool is_form(const Json& entry, std::string_view form) {
    const Json* found = entry.find("form");
    return found != nullptr && found->is_string() && found->as_string() == form;
  }

  // Copies the described parts into the fields of their role. Each role at most once; none that the form does
  // not have; all inside the object.
  Status fill(const Json& entry, const Parts& fields) const {
    const Json* parts = entry.find("parts");
    if (parts == nullptr || !parts->is_array()) return damaged();
    for (const Json& part : parts->items()) {
      const Json* role = part.find("role");
      if (role == nullptr || !role->is_string()) return damaged();
      Tensor* field = nullptr;
      for (const auto& [known, tensor] : fields)
        if (role->as_string() == known) field = tensor;
      if (field == nullptr || field->defined()) return damaged();
      PARE_TRY(*field, this->part(part));
    }
    return {};
  }

  Result<Tensor> part(const Json& part) const {
    const Json* dtype = part.find("dtype");
    const Json* offset = part.find("offset");
    const Json* bytes = part.find("bytes");
    const std::optional<Shape> shape = read_shape(part.find("shape"));
    const std::optional<DType> type =
        dtype != nullptr && dtype->is_string() ? dtype_from_name(dtype->as_string()) : std::nullopt;
    if (!type || !shape || offset == nullptr || !offset->is_integer() || bytes == nullptr ||
        !bytes->is_integer())
      return damaged();
    for (const Json* number : {offset, bytes})
      if (number->kind() == Json::Kind::integer && number->as_int() < 0) return damaged();
    const std::optional<uint64_t> expected = bytes_of(*type, *shape);
    if (!expected || bytes->as_uint() != *expected || offset->as_uint() % kAlignment != 0 ||
        offset->as_uint() > object_.size() || object_.size() - offset->as_uint() < *expected)
      return damaged();
    PARE_TRY(Tensor tensor, Tensor::allocate(*type, *shape));
    if (*expected > 0) std::memcpy(tensor.mutable_raw(), object_.data() + offset->as_uint(), *expected);
    return tensor;
  }

  Result<Shape> matrix_shape(const Json& entry) const {
    const std::optional<Shape> shape = read_shape(entry.find("shape"));
    if (!shape || shape->rank() != 2) return damaged();
    return *shape;
  }

  Status read_scheme(const Json& entry, std::optional<QuantScheme>& scheme) const {
    if (const Json* json = entry.find("scheme")) {
      PARE_TRY(scheme, QuantScheme::from_json(*json, job_, name_));
    }
    return {};
  }

  Status read_activation(const Json& entry, std::optional<ActivationQuant>& activation) const {
    if (const Json* json = entry.find("activation")) {
      PARE_TRY(activation, ActivationQuant::from_json(*json, job_, name_));
    }
    return {};
  }

  Result<Tensor> dense(const Json& entry) const {
    Tensor values;
    PARE_CHECK(fill(entry, parts_of(values)));
    if (!values.defined() || !is_floating(values.dtype())) return damaged();
    return values;
  }

  Result<std::shared_ptr<const QuantizedTensor>> quantized(const Json& entry) const {
    QuantizedTensor tensor;
    std::optional<QuantScheme> scheme;
    PARE_CHECK(read_scheme(entry, scheme));
    if (!scheme) return damaged();
    tensor.scheme = std::move(*scheme);
    PARE_TRY(tensor.shape, matrix_shape(entry));
    PARE_CHECK(read_activation(entry, tensor.activation));
    PARE_CHECK(fill(entry, parts_of(tensor)));
    return std::make_shared<const QuantizedTensor>(std::move(tensor));
  }

  Result<std::shared_ptr<const SparseTensor>> sparse(const Json& entry) const {
    SparseTensor tensor;
    const Json* pattern = entry.find("pattern");
    if (pattern == nullptr || !pattern->is_string()) return damaged();
    const Result<SparsityPattern> parsed = SparsityPattern::parse(pattern->as_string());
    if (!parsed) return damaged();
    tensor.pattern = *parsed;
    PARE_TRY(tensor.shape, matrix_shape(entry));
    PARE_CHECK(read_scheme(entry, tensor.scheme));
    PARE_CHECK(read_activation(entry, tensor.activation));
    PARE_CHECK(fill(entry, parts_of(tensor)));
    return std::make_shared<const SparseTensor>(std::move(tensor));
  }

  Result<std::shared_ptr<const LowRankTensor>> low_rank(const Json& entry) const {
    LowRankTensor tensor;
    PARE_TRY(tensor.shape, matrix_shape(entry));
    PARE_CHECK(fill(entry, parts_of(tensor)));
    if (const Json* base = entry.find("base")) {
      if (is_form(*base, "dense")) {
        PARE_TRY(tensor.base, dense(*base));
      } else if (is_form(*base, "quantized")) {
        PARE_TRY(tensor.base, quantized(*base));
      } else if (is_form(*base, "sparse")) {
        PARE_TRY(tensor.base, sparse(*base));
      } else {
        return damaged();
      }
    }
    return std::make_shared<const LowRankTensor>(std::move(tensor));
  }

  const std::string& job_;
  const std::string& name_;
  std::span<const std::byte> object_;
};

}  // namespace

Result<Json> put_tensors(JobFolder& job, const std::vector<ArchivedTensor>& tensors) {
  ObjectBuilder object;
  Json list = Json::array();
  for (const ArchivedTensor& tensor : tensors) {
    Json entry = Json::object();
    entry["name"] = tensor.name;
    Json form = describe(tensor.data, object);
    for (Json::Member& member : form.members()) entry[member.first] = std::move(member.second);
    if (tensor.data.transposed) entry["transposed"] = true;
    list.push_back(std::move(entry));
  }
  PARE_TRY(const Hash128 hash, job.put(object.spans()));
  Json description = Json::object();
  description["object"] = hash.hex();
  description["tensors"] = std::move(list);
  return description;
}

Result<std::vector<ArchivedTensor>> get_tensors(const JobFolder& job, const Json& description) {
  static const std::string kObject = "object", kTensor = "tensor";
  const Json* name_of_object = description.find("object");
  const Json* list = description.find("tensors");
  const Error damaged = FormReader(job.path(), kObject, {}).damaged();
  if (name_of_object == nullptr || !name_of_object->is_string() || list == nullptr || !list->is_array())
    return damaged;
  const std::optional<Hash128> hash = Hash128::from_hex(name_of_object->as_string());
  if (!hash) return damaged;
  PARE_TRY(const auto file, job.get(*hash));
  std::vector<ArchivedTensor> tensors;
  for (const Json& entry : list->items()) {
    const Json* name = entry.find("name");
    if (name == nullptr || !name->is_string()) return FormReader(job.path(), kTensor, {}).damaged();
    ArchivedTensor tensor{.name = name->as_string(), .data = {}};
    PARE_TRY(tensor.data, FormReader(job.path(), tensor.name, file->bytes()).read(entry));
    tensors.push_back(std::move(tensor));
  }
  file->drop(0, file->bytes().size());
  return tensors;
}

}  // namespace pare
