// engine/models/edited_source.h: a source with some tensors replaced, for methods that compress a model while
// it runs.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/models/weight_source.h"

namespace pare {

class EditedSource final : public WeightSource {
 public:
  explicit EditedSource(std::shared_ptr<const WeightSource> base);

  // Replaces a tensor of the base by one of the same logical shape. Not thread-safe, unlike load().
  void set(const std::string& name, WeightData data);
  // The base's tensor again; frees the replacement.
  void discard(const std::string& name);
  bool is_edited(std::string_view name) const { return edits_.find(name) != edits_.end(); }
  const WeightSource& base() const { return *base_; }

  const std::string& path() const override { return base_->path(); }
  std::string_view format_name() const override { return base_->format_name(); }
  const Json& config() const override { return base_->config(); }
  const std::string& config_text() const override { return base_->config_text(); }
  const std::vector<Asset>& assets() const override { return base_->assets(); }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }
  const StoredTensor* find(std::string_view name) const override;
  const Manifest* manifest() const override { return base_->manifest(); }
  Result<WeightData> load(std::string_view name) const override;
  // Of an edited tensor nothing: its bytes are the editor's.
  std::vector<HostRange> host_ranges(std::string_view name) const override {
    return is_edited(name) ? std::vector<HostRange>() : base_->host_ranges(name);
  }
  void release(std::string_view name) const override { base_->release(name); }
  Status check_unchanged() const override { return base_->check_unchanged(); }
  std::vector<std::pair<uint64_t, uint64_t>> file_identities() const override {
    return base_->file_identities();
  }
  Result<Json> hash_inputs() const override { return base_->hash_inputs(); }

 private:
  std::shared_ptr<const WeightSource> base_;
  std::vector<StoredTensor> tensors_;
  std::map<std::string, size_t, std::less<>> positions_;  // name -> index in tensors_
  std::map<std::string, WeightData, std::less<>> edits_;
};

}  // namespace pare
