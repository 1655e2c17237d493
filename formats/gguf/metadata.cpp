#include "formats/gguf/metadata.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "engine/core/text.h"
#include "formats/fault.h"
#include "formats/gguf/cursor.h"

namespace pare {
namespace {

template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// Nothing for types that are no integers, and for a u64 that does not fit.
std::optional<int64_t> load_integer(GgufValueType type, const std::byte* from) {
  switch (type) {
    case GgufValueType::u8:
      return load<uint8_t>(from);
    case GgufValueType::i8:
      return load<int8_t>(from);
    case GgufValueType::u16:
      return load<uint16_t>(from);
    case GgufValueType::i16:
      return load<int16_t>(from);
    case GgufValueType::u32:
      return load<uint32_t>(from);
    case GgufValueType::i32:
      return load<int32_t>(from);
    case GgufValueType::i64:
      return load<int64_t>(from);
    case GgufValueType::u64:
      if (const auto value = load<uint64_t>(from); value <= uint64_t{INT64_MAX})
        return static_cast<int64_t>(value);
      return INT64_MAX;  // beyond every range that is asked for
    default:
      return std::nullopt;
  }
}

double shortest(float value) {
  char text[64];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  return parse_double(std::string_view(text, static_cast<size_t>(end - text))).value_or(double(value));
}

}  // namespace

Error GgufMetadata::bad(std::string_view key, std::string what, std::string got, std::string expected) const {
  return malformed("GG33", path_, std::string(key), std::move(what), std::move(got), std::move(expected));
}

Error GgufMetadata::missing(std::string_view key) const {
  return bad(key, "required key is missing");
}

Error GgufMetadata::wrong_type(const GgufPair& pair, std::string_view expected) const {
  return bad(pair.key, "wrong type of value", std::string(gguf_value_type_name(pair.type)),
             std::string(expected));
}

Result<std::optional<int64_t>> GgufMetadata::integer(std::string_view key, int64_t low, int64_t high) const {
  const GgufPair* pair = header_.find(key);
  if (pair == nullptr) return std::optional<int64_t>();
  const bool is_array = pair->type == GgufValueType::array;
  const GgufValueType type = is_array ? pair->element : pair->type;
  if (is_array && pair->count == 0) return bad(key, "an empty array");
  std::optional<int64_t> value;
  if (type != GgufValueType::string) value = load_integer(type, pair->bytes.data());
  if (!value) return wrong_type(*pair, "an integer");
  const uint64_t width = gguf_scalar_bytes(type);
  for (uint64_t i = 1; is_array && i < pair->count; ++i) {
    if (load_integer(type, pair->bytes.data() + i * width) == value) continue;
    return unsupported("GG33", path_, std::string(key),
                       "values that differ between layers are not supported");
  }
  if (*value < low || *value > high)
    return bad(key, "out of range", std::to_string(*value), fmt::format("{} to {}", low, high));
  return value;
}

Result<int64_t> GgufMetadata::required_integer(std::string_view key, int64_t low, int64_t high) const {
  PARE_TRY(const auto value, integer(key, low, high));
  if (!value) return missing(key);
  return *value;
}

Result<std::optional<double>> GgufMetadata::number(std::string_view key) const {
  const GgufPair* pair = header_.find(key);
  if (pair == nullptr) return std::optional<double>();
  double value = 0.0;
  if (pair->type == GgufValueType::f32) {
    const auto stored = load<float>(pair->bytes.data());
    value = std::isfinite(stored) ? shortest(stored) : double(stored);
  } else if (pair->type == GgufValueType::f64) {
    value = load<double>(pair->bytes.data());
  } else if (const auto whole = pair->type == GgufValueType::string || pair->type == GgufValueType::array
                                    ? std::nullopt
                                    : load_integer(pair->type, pair->bytes.data())) {
    value = double(*whole);
  } else {
    return wrong_type(*pair, "a number");
  }
  if (!std::isfinite(value))
    return malformed("GG22", path_, std::string(key), "not a finite number", fmt::format("{}", value));
  return std::optional<double>(value);
}

Result<double> GgufMetadata::required_positive(std::string_view key) const {
  PARE_TRY(const auto value, number(key));
  if (!value) return missing(key);
  if (!(*value > 0.0)) return bad(key, "out of range", format_double(*value), "above 0");
  return *value;
}

Result<std::optional<bool>> GgufMetadata::flag(std::string_view key) const {
  const GgufPair* pair = header_.find(key);
  if (pair == nullptr) return std::optional<bool>();
  if (pair->type != GgufValueType::boolean) return wrong_type(*pair, "bool");
  return std::optional<bool>(pair->bytes[0] != std::byte{0});
}

Result<std::optional<std::string>> GgufMetadata::text(std::string_view key) const {
  const GgufPair* pair = header_.find(key);
  if (pair == nullptr) return std::optional<std::string>();
  if (pair->type != GgufValueType::string) return wrong_type(*pair, "string");
  const std::string_view value = gguf_text(pair->bytes);
  if (!is_valid_utf8(value)) return bad(key, "text is not UTF-8", quote(value));
  return std::optional<std::string>(value);
}

Result<const GgufPair*> GgufMetadata::array(std::string_view key) const {
  const GgufPair* pair = header_.find(key);
  if (pair == nullptr) return missing(key);
  if (pair->type != GgufValueType::array) return wrong_type(*pair, "array");
  return pair;
}

std::optional<uint64_t> GgufMetadata::count(std::string_view key) const {
  const GgufPair* pair = header_.find(key);
  if (pair == nullptr || pair->type != GgufValueType::array) return std::nullopt;
  return pair->count;
}

Result<std::vector<std::string_view>> GgufMetadata::strings(std::string_view key) const {
  PARE_TRY(const GgufPair* pair, array(key));
  if (pair->element != GgufValueType::string)
    return bad(key, "wrong type of elements", std::string(gguf_value_type_name(pair->element)), "string");
  std::vector<std::string_view> values;
  GgufCursor cursor(pair->bytes);
  for (uint64_t i = 0; i < pair->count; ++i) {
    const std::string_view value = gguf_text(*cursor.take(*cursor.number<uint64_t>()));
    if (!is_valid_utf8(value)) return bad(fmt::format("{}[{}]", key, i), "text is not UTF-8", quote(value));
    values.push_back(value);
  }
  return values;
}

Result<std::vector<float>> GgufMetadata::floats(std::string_view key) const {
  PARE_TRY(const GgufPair* pair, array(key));
  if (pair->element != GgufValueType::f32)
    return bad(key, "wrong type of elements", std::string(gguf_value_type_name(pair->element)), "f32");
  std::vector<float> values;
  for (uint64_t i = 0; i < pair->count; ++i) {
    values.push_back(load<float>(pair->bytes.data() + i * sizeof(float)));
    if (!std::isfinite(values.back()))
      return malformed("GG22", path_, fmt::format("{}[{}]", key, i), "not a finite number",
                       fmt::format("{}", values.back()));
  }
  return values;
}

Result<std::vector<int64_t>> GgufMetadata::integers(std::string_view key) const {
  PARE_TRY(const GgufPair* pair, array(key));
  const uint64_t width = gguf_scalar_bytes(pair->element);
  std::vector<int64_t> values;
  for (uint64_t i = 0; i < pair->count; ++i) {
    const auto value =
        width == 0 ? std::nullopt : load_integer(pair->element, pair->bytes.data() + i * width);
    if (!value)
      return bad(key, "wrong type of elements", std::string(gguf_value_type_name(pair->element)),
                 "an integer");
    values.push_back(*value);
  }
  return values;
}

}  // namespace pare
