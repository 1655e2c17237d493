#include "formats/dialects/manifest_records.h"

#include <unordered_map>

namespace pare {
namespace {

constexpr const char* kTensor = "tensor";  // extra members of a part's record
constexpr const char* kScheme = "scheme";
constexpr const char* kTensorSum = "xxh3_128";

std::string text_of(const Json& extra, const char* key) {
  const Json* value = extra.find(key);
  return value != nullptr && value->is_string() ? value->as_string() : "";
}

}  // namespace

Manifest records_of_parts(const Manifest& manifest, const std::map<std::string, std::string>& first_parts) {
  Manifest result = manifest;
  for (TensorRecord& record : result.tensors) {
    const auto found = first_parts.find(record.name);
    if (found == first_parts.end()) continue;
    record.extra[kTensor] = record.name;
    record.extra[kScheme] = record.scheme;
    record.name = found->second;
    record.scheme.clear();  // the part is a dense tensor
  }
  return result;
}

Manifest records_of_matrices(const Manifest& manifest, const Translation& translation) {
  std::unordered_map<std::string_view, const TranslatedTensor*> owner;
  for (const TranslatedTensor& tensor : translation.tensors) {
    for (const std::string& part : tensor.parts) owner.emplace(part, &tensor);
  }
  Manifest result = manifest;
  result.tensors.clear();
  for (const TensorRecord& record : manifest.tensors) {
    const auto found = owner.find(record.name);
    if (found == owner.end()) {
      result.tensors.push_back(record);
      continue;
    }
    const StoredTensor& tensor = found->second->tensor;
    if (text_of(record.extra, kTensor) != tensor.name) continue;
    TensorRecord whole = record;
    whole.name = tensor.name;
    whole.kind = "quantized";
    whole.scheme = tensor.scheme->text();
    whole.shape.assign(tensor.shape.sizes().begin(), tensor.shape.sizes().end());
    for (const char* key : {kTensor, kScheme, kTensorSum}) whole.extra.erase(key);
    result.tensors.push_back(std::move(whole));
  }
  return result;
}

}  // namespace pare
