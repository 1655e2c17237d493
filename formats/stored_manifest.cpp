#include "formats/stored_manifest.h"

#include <algorithm>
#include <map>

#include "engine/core/assert.h"
#include "engine/core/limits.h"
#include "formats/fault.h"

namespace pare {
namespace {

std::optional<Hash128> sum_of(const Json* text) {
  if (text == nullptr || !text->is_string()) return std::nullopt;
  return Hash128::from_hex(text->as_string());
}

}  // namespace

Result<StoredManifest> StoredManifest::parse(std::string_view text, std::string_view path) {
  StoredManifest stored;
  PARE_TRY(const Json json, parse_json(text, path, {.max_bytes = limits::kHeaderBytes}, "IX21"));
  PARE_TRY(stored.manifest_, Manifest::from_json(json, path));
  for (const Json& file : stored.manifest_.files.items()) {
    const Json* name = file.find("name");
    const Json* bytes = file.find("bytes");
    const auto sum = sum_of(file.find("xxh3_128"));
    const bool whole = name != nullptr && name->is_string() && bytes != nullptr &&
                       bytes->kind() == Json::Kind::integer && bytes->as_int() >= 0 && sum;
    if (!whole) return malformed("IX21", path, "files", "entry is not {name, bytes, xxh3_128}");
    stored.files_.push_back({name->as_string(), bytes->as_uint(), *sum});
  }
  for (const TensorRecord& record : stored.manifest_.tensors) {
    if (const auto sum = sum_of(record.extra.find(kTensorSumKey)))
      stored.tensors_.emplace_back(record.name, *sum);
  }
  std::sort(stored.tensors_.begin(), stored.tensors_.end());
  return stored;
}

std::optional<Hash128> StoredManifest::tensor_sum(std::string_view name) const {
  const auto found =
      std::lower_bound(tensors_.begin(), tensors_.end(), name,
                       [](const auto& entry, std::string_view wanted) { return entry.first < wanted; });
  if (found == tensors_.end() || found->first != name) return std::nullopt;
  return found->second;
}

const FileSum* StoredManifest::file(std::string_view name) const {
  const auto found =
      std::find_if(files_.begin(), files_.end(), [&](const FileSum& file) { return file.name == name; });
  return found == files_.end() ? nullptr : &*found;
}

Manifest completed_manifest(const Manifest& manifest, const std::vector<WrittenTensor>& written) {
  std::map<std::string_view, const TensorRecord*> given;
  for (const TensorRecord& record : manifest.tensors) given[record.name] = &record;
  Manifest result = manifest;
  result.tensors.clear();
  for (const WrittenTensor& tensor : written) {
    TensorRecord record;
    if (const auto found = given.find(tensor.name); found != given.end()) {
      record = *found->second;
      given.erase(found);
      const bool dequantized = tensor.scheme.empty() && record.kind == "quantized" && !record.scheme.empty();
      if (dequantized) record.extra["dequantized_from"] = record.scheme;
      const bool expanded = tensor.kind == "dense" && (record.kind == "sparse" || record.kind == "low_rank");
      if (expanded) record.extra["expanded_from"] = record.kind;
    } else {
      record.name = tensor.name;
      record.method_asked = record.method_applied = "copy";
    }
    record.kind = tensor.kind;
    record.scheme = tensor.scheme;
    record.shape = tensor.shape;
    if (!tensor.pattern.empty()) record.extra["pattern"] = tensor.pattern;
    record.extra[kTensorSumKey] = tensor.sum.hex();
    result.tensors.push_back(std::move(record));
  }
  PARE_ASSERT(given.empty(), "[manifest] record of {}, which was not written", given.begin()->first);
  return result;
}

Json file_sum_json(const FileSum& file) {
  Json json = Json::object();
  json["name"] = file.name;
  json["bytes"] = file.bytes;
  json["xxh3_128"] = file.sum.hex();
  return json;
}

}  // namespace pare
