#include "cli/shared_state.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "engine/core/limits.h"

namespace pare::cli {
namespace {

constexpr size_t kAtOnce = size_t(1) << 22;  // floats

// Bytes travel as the floats 0 to 255.
Status share_bytes(GradientExchange& exchange, std::byte* bytes, size_t count) {
  std::vector<float> floats(std::min(count, kAtOnce));
  for (size_t at = 0; at < count; at += kAtOnce) {
    const size_t now = std::min(kAtOnce, count - at);
    if (exchange.is_first())
      for (size_t i = 0; i < now; ++i) floats[i] = float(uint8_t(bytes[at + i]));
    PARE_CHECK(exchange.broadcast(std::span(floats).first(now), 0));
    if (!exchange.is_first())
      for (size_t i = 0; i < now; ++i) bytes[at + i] = std::byte(uint8_t(floats[i]));
  }
  return {};
}

// The tensors of rank 0 may be views of a file, which nobody may write to.
Status share_floats(GradientExchange& exchange, float* values, size_t count) {
  std::vector<float> floats(std::min(count, kAtOnce));
  for (size_t at = 0; at < count; at += kAtOnce) {
    const size_t now = std::min(kAtOnce, count - at);
    if (exchange.is_first()) std::memcpy(floats.data(), values + at, now * sizeof(float));
    PARE_CHECK(exchange.broadcast(std::span(floats).first(now), 0));
    if (!exchange.is_first()) std::memcpy(values + at, floats.data(), now * sizeof(float));
  }
  return {};
}

Error broken_description() {
  return Error{.exit = Exit::io, .path = "mpirun", .what = "a process of the group sent something else"};
}

Json description_of(const TrainerState& state) {
  Json json = Json::object();
  json["json"] = state.json;
  Json list = Json::array();
  for (const NamedTensor& entry : state.tensors) {
    Json item = Json::object();
    item["name"] = entry.name;
    item["is_mask"] = entry.tensor.dtype() == DType::u8;
    Json shape = Json::array();
    for (const int64_t size : entry.tensor.shape().sizes()) shape.push_back(Json(size));
    item["shape"] = std::move(shape);
    list.push_back(std::move(item));
  }
  json["tensors"] = std::move(list);
  return json;
}

Result<TrainerState> empty_state(const std::string& text) {
  PARE_TRY(const Json json, parse_json(text, "mpirun", {.max_bytes = text.size() + 1}));
  const Json *inner = json.find("json"), *list = json.find("tensors");
  if (inner == nullptr || list == nullptr || !list->is_array()) return broken_description();
  TrainerState state;
  state.json = *inner;
  for (const Json& item : list->items()) {
    const Json *name = item.find("name"), *is_mask = item.find("is_mask"), *shape = item.find("shape");
    if (name == nullptr || is_mask == nullptr || shape == nullptr || !shape->is_array() ||
        shape->size() > size_t(Shape::kMaxRank))
      return broken_description();
    std::array<int64_t, Shape::kMaxRank> sizes{};
    for (size_t i = 0; i < shape->size(); ++i) sizes[i] = (*shape)[i].as_int();
    PARE_TRY(Tensor tensor,
             Tensor::allocate(is_mask->as_bool() ? DType::u8 : DType::f32,
                              Shape(std::span<const int64_t>(sizes.data(), shape->size()))));
    state.tensors.push_back({name->as_string(), std::move(tensor)});
  }
  return state;
}

}  // namespace

Status share_text(GradientExchange& exchange, std::string& text) {
  if (exchange.size() == 1) return {};
  std::array<double, 1> length{exchange.is_first() ? double(text.size()) : 0.0};
  PARE_CHECK(exchange.sum(std::span<double>(length)));
  text.resize(size_t(length[0]));
  return share_bytes(exchange, reinterpret_cast<std::byte*>(text.data()), text.size());
}

Status share_state(GradientExchange& exchange, TrainerState& state) {
  if (exchange.size() == 1) return {};
  std::string text = exchange.is_first() ? description_of(state).dump() : std::string();
  PARE_CHECK(share_text(exchange, text));
  if (!exchange.is_first()) {
    PARE_TRY(state, empty_state(text));
  }
  for (const NamedTensor& entry : state.tensors) {
    const Tensor& tensor = entry.tensor;
    if (tensor.dtype() == DType::u8) {
      PARE_CHECK(share_bytes(exchange, const_cast<std::byte*>(tensor.raw()), tensor.size_bytes()));
    } else {
      PARE_CHECK(share_floats(exchange, const_cast<float*>(tensor.data<float>()), size_t(tensor.numel())));
    }
  }
  return {};
}

}  // namespace pare::cli
