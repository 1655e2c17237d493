#include "engine/core/manifest.h"

#include <fmt/core.h>

#include <algorithm>
#include <string_view>

#include "engine/core/text.h"

namespace pare {
namespace {

constexpr int kSchemaVersion = 1;

Json number_or_null(const std::optional<double>& value) {
  return value ? Json(*value) : Json();
}

Json record_to_json(const TensorRecord& record) {
  Json json = Json::object();
  json["name"] = record.name;
  json["kind"] = record.kind;
  json["scheme"] = record.scheme;
  Json shape = Json::array();
  for (const int64_t extent : record.shape) shape.push_back(extent);
  json["shape"] = std::move(shape);
  json["method_asked"] = record.method_asked;
  json["method_applied"] = record.method_applied;
  json["relative_error"] = number_or_null(record.relative_error);
  json["max_error"] = number_or_null(record.max_error);
  json["bits_per_weight"] = number_or_null(record.bits_per_weight);
  json["clipped_share"] = number_or_null(record.clipped_share);
  json["fallback"] = record.fallback;
  json["extra"] = record.extra;
  return json;
}

Json totals_to_json(const Manifest& manifest) {
  // Methods in order of first use, so that the text does not depend on a table's order.
  Json methods = Json::object();
  double weights = 0, bits = 0, worst = 0;
  for (const TensorRecord& record : manifest.tensors) {
    Json& count = methods[record.method_applied];
    count = count.is_null() ? Json(1) : Json(count.as_int() + 1);
    double elements = 1;
    for (const int64_t extent : record.shape) elements *= static_cast<double>(extent);
    if (record.bits_per_weight) {
      weights += elements;
      bits += elements * *record.bits_per_weight;
    }
    worst = std::max(worst, record.relative_error.value_or(0));
  }
  Json json = Json::object();
  json["tensors"] = static_cast<int64_t>(manifest.tensors.size());
  json["methods"] = std::move(methods);
  json["bits_per_weight"] = weights > 0 ? Json(bits / weights) : Json();
  json["worst_relative_error"] = worst;
  json["fallbacks"] = manifest.fallbacks();
  return json;
}

// Reads members of one object and remembers the first that does not fit.
class Reader {
 public:
  Reader(const Json& object, std::string_view path, std::string where)
      : object_(object), path_(path), where_(std::move(where)) {}

  const Json* member(const char* key, bool (Json::*has_kind)() const, const char* kind) {
    if (error_) return nullptr;
    const Json* value = object_.find(key);
    if (value != nullptr && (value->*has_kind)()) return value;
    error_ = Error{Exit::malformed,
                   "",
                   std::string(path_),
                   where_ + key,
                   value == nullptr ? "manifest field is missing" : "manifest field has the wrong type",
                   value == nullptr ? "" : value->kind_name(),
                   kind,
                   "expected"};
    return nullptr;
  }
  std::string text(const char* key) {
    const Json* value = member(key, &Json::is_string, "string");
    return value == nullptr ? std::string() : value->as_string();
  }
  std::optional<double> number(const char* key) {
    const Json* value = object_.find(key);
    if (value == nullptr || value->is_null()) return std::nullopt;
    value = member(key, &Json::is_number, "number or null");
    return value == nullptr ? std::nullopt : std::optional(value->as_double());
  }
  Json value(const char* key, bool (Json::*has_kind)() const, const char* kind) {
    const Json* found = member(key, has_kind, kind);
    return found == nullptr ? Json() : *found;
  }
  void fail(const char* key, const char* what, std::string got) {
    if (!error_)
      error_ = Error{Exit::malformed, "", std::string(path_), where_ + key, what, std::move(got), ""};
  }
  std::optional<Error>& error() { return error_; }

 private:
  const Json& object_;
  std::string_view path_;
  std::string where_;
  std::optional<Error> error_;
};

Result<TensorRecord> record_from_json(const Json& json, std::string_view path, size_t index) {
  if (!json.is_object()) {
    return Error{Exit::malformed,  "", std::string(path), fmt::format("tensors[{}]", index), "not an object",
                 json.kind_name(), ""};
  }
  Reader reader(json, path, fmt::format("tensors[{}].", index));
  TensorRecord record;
  record.name = reader.text("name");
  record.kind = reader.text("kind");
  record.scheme = reader.text("scheme");
  if (const Json* shape = reader.member("shape", &Json::is_array, "array")) {
    for (const Json& extent : shape->items()) {
      if (extent.kind() != Json::Kind::integer || extent.as_int() < 0) {
        reader.fail("shape", "extent is not a count", quote(extent.is_string() ? "string" : extent.dump()));
        break;
      }
      record.shape.push_back(extent.as_int());
    }
  }
  record.method_asked = reader.text("method_asked");
  record.method_applied = reader.text("method_applied");
  record.relative_error = reader.number("relative_error");
  record.max_error = reader.number("max_error");
  record.bits_per_weight = reader.number("bits_per_weight");
  record.clipped_share = reader.number("clipped_share");
  record.fallback = reader.text("fallback");
  record.extra = reader.value("extra", &Json::is_object, "object");
  if (reader.error()) return *std::move(reader.error());
  return record;
}

}  // namespace

int64_t Manifest::fallbacks() const {
  return std::count_if(tensors.begin(), tensors.end(),
                       [](const TensorRecord& r) { return !r.fallback.empty(); });
}

Json Manifest::to_json() const {
  Json json = Json::object();
  json["schema_version"] = schema_version;
  json["program_version"] = program_version;
  json["command"] = command;
  json["options"] = options;
  json["recipe"] = recipe;
  json["seed"] = seed;
  json["inputs"] = inputs;
  if (files.size() > 0) json["files"] = files;
  json["arithmetic"] = arithmetic;
  json["history"] = Json(Json::Array(history.begin(), history.end()));
  Json records = Json::array();
  for (const TensorRecord& record : tensors) records.push_back(record_to_json(record));
  json["tensors"] = std::move(records);
  json["totals"] = totals_to_json(*this);
  return json;
}

Result<Manifest> Manifest::from_json(const Json& json, std::string_view path) {
  if (!json.is_object()) {
    return Error{Exit::malformed, "", std::string(path), "manifest", "not an object", json.kind_name(), ""};
  }
  Reader reader(json, path, "manifest.");
  Manifest manifest;
  if (const Json* version = reader.member("schema_version", &Json::is_integer, "integer")) {
    if (*version != Json(kSchemaVersion)) {
      return Error{Exit::unsupported,
                   "",
                   std::string(path),
                   "manifest.schema_version",
                   "unknown manifest version",
                   version->dump(),
                   std::to_string(kSchemaVersion),
                   "expected"};
    }
  }
  manifest.program_version = reader.text("program_version");
  manifest.command = reader.text("command");
  manifest.options = reader.value("options", &Json::is_object, "object");
  manifest.recipe = reader.value("recipe", &Json::is_array, "array");
  if (const Json* seed = reader.member("seed", &Json::is_integer, "integer")) {
    if (seed->kind() == Json::Kind::integer && seed->as_int() < 0) {
      reader.fail("seed", "negative seed", seed->dump());
    } else {
      manifest.seed = seed->as_uint();
    }
  }
  manifest.inputs = reader.value("inputs", &Json::is_array, "array");
  if (json.find("files") != nullptr) manifest.files = reader.value("files", &Json::is_array, "array");
  manifest.arithmetic = reader.text("arithmetic");
  if (const Json* history = reader.member("history", &Json::is_array, "array"))
    manifest.history = history->items();
  const Json* records = reader.member("tensors", &Json::is_array, "array");
  if (reader.error()) return *std::move(reader.error());
  for (size_t i = 0; i < records->size(); ++i) {
    PARE_TRY(TensorRecord record, record_from_json((*records)[i], path, i));
    manifest.tensors.push_back(std::move(record));
  }
  return manifest;
}

}  // namespace pare
