// tests/support/memory_source.h: a model in memory, to be bent as a test needs it, and a plain reader of
// safetensors files that are known to be good.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/models/weight_source.h"

namespace pare::test {

// Every tensor of a file; aborts the test program when the file is not what it should be.
std::map<std::string, Tensor> read_tensors(const std::string& path);
// One string of a file's metadata; empty when it is absent.
std::string read_metadata(const std::string& path, const std::string& key);

class MemorySource : public WeightSource {
 public:
  explicit MemorySource(const std::string& config_text, std::string path = "memory");
  // config.json, generation_config.json and all weights of a folder.
  static std::shared_ptr<MemorySource> read(const std::string& folder);

  void set_config(const std::string& text);
  Json& mutable_config() { return config_; }
  void add(const std::string& name, Tensor tensor);  // replaces one of the same name
  void add(const std::string& name, QuantizedTensor tensor, bool transposed);
  void set(const std::string& name, WeightData data);  // any form; replaces one of the same name
  void remove(const std::string& name);
  void rename(const std::string& from, const std::string& to);
  void add_asset(const std::string& name, const std::string& bytes);
  const Tensor& dense(const std::string& name) const { return weights_.at(name).dense(); }

  const std::string& path() const override { return path_; }
  std::string_view format_name() const override { return "memory"; }
  const Json& config() const override { return config_; }
  const std::string& config_text() const override { return config_text_; }
  const std::vector<Asset>& assets() const override { return assets_; }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }
  const StoredTensor* find(std::string_view name) const override;
  Result<WeightData> load(std::string_view name) const override;
  // Tensors as they lie in memory; tests replace them and do not write into them.
  std::vector<HostRange> host_ranges(std::string_view name) const override;
  void release(std::string_view) const override {}
  Status check_unchanged() const override { return {}; }
  std::vector<std::pair<uint64_t, uint64_t>> file_identities() const override { return {}; }
  Result<Json> hash_inputs() const override { return Json::array(); }

 private:
  void put(StoredTensor stored, WeightData data);

  std::string path_, config_text_;
  Json config_;
  std::vector<Asset> assets_;
  std::vector<StoredTensor> tensors_;
  std::map<std::string, WeightData, std::less<>> weights_;
};

}  // namespace pare::test
