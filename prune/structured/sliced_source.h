// prune/structured/sliced_source.h: a model with units cut away, as a source like any other: tensors are
// sliced when they are loaded, layers are renumbered, config and tokenizer say the new sizes.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "prune/structured/units.h"

namespace pare {

class SlicedSource final : public WeightSource {
 public:
  // `model` describes `base`, whose tensors are dense. Asserts that the kept layers are equally large. Exit
  // 3, 4 when the tokenizer cannot follow a cut vocabulary.
  static Result<std::shared_ptr<const SlicedSource>> create(std::shared_ptr<const WeightSource> base,
                                                            const ModelDescription& model, KeptUnits kept);

  // Name in the base of a tensor here.
  const std::string& base_name(std::string_view name) const { return parts_.at(position(name)).base_name; }
  const KeptUnits& kept() const { return kept_; }

  const std::string& path() const override { return base_->path(); }
  std::string_view format_name() const override { return base_->format_name(); }
  const Json& config() const override { return config_; }
  const std::string& config_text() const override { return config_text_; }
  const std::vector<Asset>& assets() const override { return assets_; }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }
  const StoredTensor* find(std::string_view name) const override;
  const Manifest* manifest() const override { return base_->manifest(); }
  Result<WeightData> load(std::string_view name) const override;
  std::vector<HostRange> host_ranges(std::string_view name) const override;
  void release(std::string_view name) const override;
  Status check_unchanged() const override { return base_->check_unchanged(); }
  std::vector<std::pair<uint64_t, uint64_t>> file_identities() const override {
    return base_->file_identities();
  }
  Result<Json> hash_inputs() const override { return base_->hash_inputs(); }

 private:
  struct Part {
    std::string base_name;
    std::optional<std::vector<int64_t>> first, second;  // along the stored axes
  };
  SlicedSource() = default;
  size_t position(std::string_view name) const;
  Status add(const ModelDescription& model, const TensorSpec& from, const TensorSpec& to);

  std::shared_ptr<const WeightSource> base_;
  KeptUnits kept_;
  Json config_;
  std::string config_text_;
  std::vector<Asset> assets_;
  std::vector<StoredTensor> tensors_;
  std::vector<Part> parts_;  // as tensors_
  std::map<std::string, size_t, std::less<>> positions_;
};

}  // namespace pare
