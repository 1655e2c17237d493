#include "distill/trainer_state.h"

#include <array>
#include <optional>
#include <utility>

#include "engine/core/checked.h"

namespace pare {
namespace {

constexpr uint64_t kAlignment = 64;
constexpr std::array<std::byte, kAlignment> kZeros = {};

Error bad_state(std::string path, std::string where, const char* what) {
  return Error{.exit = Exit::malformed,
               .rule = {},
               .path = std::move(path),
               .where = std::move(where),
               .what = what,
               .got = {},
               .limit = {}};
}

Error missing(std::string_view what) {
  return bad_state("training state", std::string(what), "missing or of another kind");
}

// The sizes of a description, each checked; nothing for anything else.
std::optional<Shape> shape_of(const Json* list) {
  if (list == nullptr || !list->is_array() || list->size() > size_t(Shape::kMaxRank)) return std::nullopt;
  std::array<int64_t, Shape::kMaxRank> sizes{};
  Checked count = uint64_t(1);
  for (size_t i = 0; i < list->size(); ++i) {
    const Json& size = (*list)[i];
    if (size.kind() != Json::Kind::integer || size.as_int() < 0) return std::nullopt;
    count *= uint64_t(size.as_int());
    if (!count.valid() || count.value() > uint64_t(INT64_MAX) / 8) return std::nullopt;
    sizes[i] = size.as_int();
  }
  return Shape(std::span<const int64_t>(sizes.data(), list->size()));
}

}  // namespace

Result<Tensor> TrainerState::tensor(std::string_view name, DType dtype, const Shape& shape) const {
  for (const NamedTensor& entry : tensors) {
    if (entry.name != name) continue;
    if (entry.tensor.dtype() != dtype || !(entry.tensor.shape() == shape)) break;
    return entry.tensor;
  }
  return missing(name);
}

Result<int64_t> TrainerState::integer(std::string_view key) const {
  const Json* value = json.find(key);
  if (value == nullptr || value->kind() != Json::Kind::integer) return missing(key);
  return value->as_int();
}

Result<double> TrainerState::real(std::string_view key) const {
  const Json* value = json.find(key);
  if (value == nullptr || !value->is_number()) return missing(key);
  return value->as_double();
}

Result<StoredTrainerState> put_state(JobFolder& job, const TrainerState& state) {
  std::vector<std::span<const std::byte>> spans;
  Json list = Json::array();
  uint64_t offset = 0;
  for (const NamedTensor& entry : state.tensors) {
    PARE_ASSERT(entry.tensor.is_contiguous() && entry.tensor.device().is_host(), "[state] {}", entry.name);
    const size_t bytes = entry.tensor.size_bytes();
    Json shape = Json::array();
    for (const int64_t size : entry.tensor.shape().sizes()) shape.push_back(Json(size));
    Json item = Json::object();
    item["name"] = entry.name;
    item["dtype"] = dtype_name(entry.tensor.dtype());
    item["shape"] = std::move(shape);
    item["offset"] = Json(int64_t(offset));
    item["bytes"] = Json(int64_t(bytes));
    list.push_back(std::move(item));
    spans.push_back({entry.tensor.raw(), bytes});
    offset += bytes;
    if (const uint64_t over = offset % kAlignment) {
      spans.push_back(std::span(kZeros).first(kAlignment - over));
      offset += kAlignment - over;
    }
  }
  PARE_TRY(const Hash128 object, job.put(spans));
  Json description = Json::object();
  description["object"] = object.hex();
  description["json"] = state.json;
  description["tensors"] = std::move(list);
  return StoredTrainerState{.object = object, .description = std::move(description)};
}

Result<TrainerState> get_state(const JobFolder& job, const Json& description) {
  const auto broken = [&](const char* where) {
    return bad_state(job.path(), where,
                     "the record of the training state does not fit its object; --restart begins anew");
  };
  const Json* object = description.find("object");
  const Json* json = description.find("json");
  const Json* list = description.find("tensors");
  if (object == nullptr || !object->is_string()) return broken("object");
  if (json == nullptr || !json->is_object()) return broken("json");
  if (list == nullptr || !list->is_array()) return broken("tensors");
  const auto hash = Hash128::from_hex(object->as_string());
  if (!hash) return broken("object");
  PARE_TRY(const std::shared_ptr<const MappedFile> file, job.get(*hash));
  const std::span<const std::byte> bytes = file->bytes();
  const std::shared_ptr<Storage> storage = Storage::borrow(bytes.data(), bytes.size(), file, Device::cpu());
  TrainerState state;
  state.json = *json;
  for (const Json& item : list->items()) {
    const Json* name = item.find("name");
    const Json* dtype = item.find("dtype");
    const Json* offset = item.find("offset");
    const auto shape = shape_of(item.find("shape"));
    if (name == nullptr || !name->is_string() || dtype == nullptr || !dtype->is_string() || !shape ||
        offset == nullptr || offset->kind() != Json::Kind::integer || offset->as_int() < 0)
      return broken("tensors");
    const auto type = dtype_from_name(dtype->as_string());
    if (!type || (*type != DType::f32 && *type != DType::u8)) return broken("dtype");
    const uint64_t size = uint64_t(shape->numel()) * uint64_t(dtype_bytes(*type));
    const auto begin = uint64_t(offset->as_int());
    if (begin % kAlignment != 0 || begin > bytes.size() || size > bytes.size() - begin)
      return broken("offset");
    state.tensors.push_back({name->as_string(), Tensor(storage, size_t(begin), *type, *shape)});
  }
  return state;
}

}  // namespace pare
