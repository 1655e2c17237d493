// distill/fresh_source.h: a model that nobody has trained yet: the tensors that a config asks for, with
// random values that depend on the seed and the tensor's name alone.
//
//   matrices, embeddings   N(0, d^2), d = initializer_range of the config, 0.02 where it has none
//   outputs of residual branches (attention, MLP)   d / sqrt(2 L)
//   gains of norms 1 (0 where the norm adds one itself), biases 0
// Source: Radford et al., "Language models are unsupervised multitask learners" (2019), section 2.3.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/models/architecture.h"

namespace pare {

class FreshSource final : public WeightSource {
 public:
  // path: of the config, for messages; text: its bytes; assets: tokenizer and the like, of another model.
  // Exit 3, 4, 6 as describe_model().
  static Result<std::shared_ptr<const FreshSource>> create(const std::string& path, std::string text,
                                                           std::vector<Asset> assets, uint64_t seed);

  double deviation() const { return deviation_; }

  const std::string& path() const override { return path_; }
  std::string_view format_name() const override { return "config"; }
  const Json& config() const override { return config_; }
  const std::string& config_text() const override { return config_text_; }
  const std::vector<Asset>& assets() const override { return assets_; }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }
  const StoredTensor* find(std::string_view name) const override;
  Result<WeightData> load(std::string_view name) const override;  // in the type of the config, else f32
  void release(std::string_view) const override {}
  Status check_unchanged() const override { return {}; }
  std::vector<std::pair<uint64_t, uint64_t>> file_identities() const override { return {}; }
  Result<Json> hash_inputs() const override;  // of the config

 private:
  FreshSource() = default;
  std::string path_, config_text_;
  uint64_t seed_ = 0;
  double deviation_ = 0.02;
  Json config_;
  std::vector<Asset> assets_;
  ModelConfig model_;
  std::vector<StoredTensor> tensors_;
  std::map<std::string, TensorSpec, std::less<>> specs_;
};

}  // namespace pare
