#include "tests/support/memory_source.h"

#include <algorithm>
#include <cstring>

#include "engine/core/assert.h"
#include "engine/core/file.h"
#include "engine/core/limits.h"

namespace pare::test {
namespace {

constexpr uint64_t kMaxBytes = 1ull << 30;

template <typename T>
T must(Result<T> result) {
  PARE_ASSERT(result.has_value(), "{}", format_error(result.error()));
  return *std::move(result);
}

struct File {
  std::string bytes;
  Json header;
  size_t data_begin = 0;
};

File read_file(const std::string& path) {
  File file;
  file.bytes = must(read_text_file(path, kMaxBytes));
  uint64_t length = 0;
  std::memcpy(&length, file.bytes.data(), sizeof length);
  file.data_begin = sizeof length + length;
  const std::string_view text(file.bytes.data() + sizeof length, length);
  file.header = must(parse_json(text, path, {.max_bytes = limits::kHeaderBytes}));
  return file;
}

}  // namespace

std::map<std::string, Tensor> read_tensors(const std::string& path) {
  const File file = read_file(path);
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, entry] : file.header.members()) {
    if (name == "__metadata__") continue;
    Shape shape;
    std::vector<int64_t> sizes;
    for (const Json& size : entry.find("shape")->items()) sizes.push_back(size.as_int());
    shape = Shape(std::span<const int64_t>(sizes));
    const DType dtype = *dtype_from_name(entry.find("dtype")->as_string());
    Tensor tensor = must(Tensor::allocate(dtype, shape));
    const size_t begin = file.data_begin + (*entry.find("data_offsets"))[0].as_uint();
    PARE_ASSERT(begin + tensor.size_bytes() <= file.bytes.size(), "{} is cut", path);
    std::memcpy(tensor.mutable_raw(), file.bytes.data() + begin, tensor.size_bytes());
    tensors[name] = tensor;
  }
  return tensors;
}

std::string read_metadata(const std::string& path, const std::string& key) {
  const File file = read_file(path);
  const Json* metadata = file.header.find("__metadata__");
  const Json* value = metadata == nullptr ? nullptr : metadata->find(key);
  return value == nullptr ? std::string() : value->as_string();
}

MemorySource::MemorySource(const std::string& config_text, std::string path) : path_(std::move(path)) {
  set_config(config_text);
}

std::shared_ptr<MemorySource> MemorySource::read(const std::string& folder) {
  auto source =
      std::make_shared<MemorySource>(must(read_text_file(folder + "/config.json", kMaxBytes)), folder);
  for (const std::string& name : must(list_directory(folder))) {
    if (name.ends_with(".safetensors") && name != "expected.safetensors")
      for (const auto& [tensor_name, tensor] : read_tensors(folder + "/" + name))
        source->add(tensor_name, tensor);
    if (name == "generation_config.json" || name.starts_with("tokenizer"))
      source->add_asset(name, must(read_text_file(folder + "/" + name, kMaxBytes)));
  }
  return source;
}

void MemorySource::set_config(const std::string& text) {
  config_text_ = text;
  config_ = must(parse_json(text, path_ + "/config.json", {.max_bytes = limits::kConfigBytes}));
}

void MemorySource::put(StoredTensor stored, WeightData data) {
  remove(stored.name);
  weights_[stored.name] = std::move(data);
  tensors_.push_back(std::move(stored));
}

void MemorySource::add(const std::string& name, Tensor tensor) {
  StoredTensor stored;
  stored.name = name;
  stored.dtype = tensor.dtype();
  stored.shape = tensor.shape();
  stored.bytes = tensor.size_bytes();
  put(std::move(stored), WeightData{.form = std::move(tensor)});
}

void MemorySource::add(const std::string& name, QuantizedTensor tensor, bool transposed) {
  StoredTensor stored;
  stored.name = name;
  stored.dtype = tensor.scheme.scale_dtype;
  stored.shape = tensor.shape;
  stored.scheme = tensor.scheme;
  stored.activation = tensor.activation;
  stored.transposed = transposed;
  stored.bytes = tensor.size_bytes();
  put(std::move(stored), WeightData{.form = std::make_shared<const QuantizedTensor>(std::move(tensor)),
                                    .transposed = transposed});
}

void MemorySource::set(const std::string& name, WeightData data) {
  for (StoredTensor& stored : tensors_)
    if (stored.name == name) stored = data.described(name);
  weights_[name] = std::move(data);
}

void MemorySource::remove(const std::string& name) {
  std::erase_if(tensors_, [&](const StoredTensor& stored) { return stored.name == name; });
  weights_.erase(name);
}

void MemorySource::rename(const std::string& from, const std::string& to) {
  const Tensor tensor = dense(from);
  remove(from);
  add(to, tensor);
}

void MemorySource::add_asset(const std::string& name, const std::string& bytes) {
  std::erase_if(assets_, [&](const Asset& asset) { return asset.name == name; });
  assets_.push_back({name, bytes});
  std::sort(assets_.begin(), assets_.end(), [](const Asset& a, const Asset& b) { return a.name < b.name; });
}

const StoredTensor* MemorySource::find(std::string_view name) const {
  for (const StoredTensor& stored : tensors_)
    if (stored.name == name) return &stored;
  return nullptr;
}

Result<WeightData> MemorySource::load(std::string_view name) const {
  const auto found = weights_.find(name);
  if (found == weights_.end())
    return Error{
        .exit = Exit::malformed, .path = path_, .where = std::string(name), .what = "no such tensor"};
  return found->second;
}

std::vector<HostRange> MemorySource::host_ranges(std::string_view name) const {
  const auto found = weights_.find(name);
  std::vector<HostRange> ranges;
  if (found == weights_.end()) return ranges;
  const auto add = [&](const Tensor& tensor) {
    if (tensor.defined() && tensor.is_contiguous())
      ranges.push_back({.bytes = {tensor.raw(), tensor.size_bytes()}, .keeper = tensor.storage()});
  };
  if (found->second.is_dense()) add(found->second.dense());
  if (found->second.is_quantized()) {
    const QuantizedTensor& codes = *found->second.quantized();
    for (const Tensor* part : {&codes.codes, &codes.scales, &codes.zero_points, &codes.minimums}) add(*part);
  }
  return ranges;
}

}  // namespace pare::test
