// cli/planned_source.h: a model as a step of a recipe will leave it: forms and sizes of its tensors, before
// there is anything to load. Later steps are planned on it.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/models/weight_source.h"

namespace pare::cli {

class PlannedSource final : public WeightSource {
 public:
  // `tensors` take the place of those of the base; same names, logical shapes and config.
  PlannedSource(std::shared_ptr<const WeightSource> base, std::vector<StoredTensor> tensors);

  const std::string& path() const override { return base_->path(); }
  std::string_view format_name() const override { return base_->format_name(); }
  const Json& config() const override { return base_->config(); }
  const std::string& config_text() const override { return base_->config_text(); }
  const std::vector<Asset>& assets() const override { return base_->assets(); }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }
  const StoredTensor* find(std::string_view name) const override;
  // Of a tensor that stays as it is, for checks that look at values; exit 4 for any other.
  Result<WeightData> load(std::string_view name) const override;
  std::vector<HostRange> host_ranges(std::string_view name) const override {
    return base_->host_ranges(name);
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
  std::map<std::string, size_t, std::less<>> positions_;
};

}  // namespace pare::cli
