// calibrate/step.h: what a compression method does to one block, as seen by the pipeline.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "calibrate/statistics.h"
#include "engine/models/edited_source.h"
#include "engine/models/model.h"

namespace pare {

// A linear's or vector's values: matrices f32 [out, in] whatever the file's orientation, vectors f32. A new
// tensor; of sparse values and of factors their product. Exit 4 (CF12) when the tensor has codes.
Result<Tensor> float_values(const WeightSource& source, const TensorSpec& spec);

// The block a step works on: its tensors can be read and replaced. A replaced tensor is used from then on.
class BlockEdit {
 public:
  BlockEdit(Model& model, EditedSource& source, int index) : model_(model), source_(source), index_(index) {}

  int index() const { return index_; }
  const ModelDescription& description() const { return model_.description(); }
  const ModelConfig& config() const { return model_.config(); }
  const WeightSource& source() const { return source_; }
  // Linears that get this site's activations, in execution order; of a mixture those of all experts, or of
  // one.
  std::vector<const TensorSpec*> linears(Site site, int expert = -1) const;
  bool is_mixture() const { return config().blocks[size_t(index_)].is_mixture(); }
  const TensorSpec* find(Role role) const { return description().find(role, index_); }
  // The bias of a linear; nullptr when it has none.
  const TensorSpec* bias_of(const TensorSpec& linear) const;

  // float_values() as they are now.
  Result<Tensor> values(const TensorSpec& spec) const;
  // New values of the same logical shape, stored as `dtype` in the file's orientation.
  Status replace(const TensorSpec& spec, const Tensor& values, DType dtype);
  Status replace(const TensorSpec& spec, std::shared_ptr<const QuantizedTensor> quantized);
  // Any form as it is; dense ones in the file's orientation, for the others `transposed` is set here.
  Status replace(const TensorSpec& spec, WeightData data);

 private:
  Status reload(const TensorSpec& spec);
  Model& model_;
  EditedSource& source_;
  int index_;
};

// What the linears of one site have seen.
struct StageInput {
  Site site = Site::none;
  const SiteStatistics& statistics;
  // sum of x_original x^T, f32 [original channels, channels]: the same tokens in the uncompressed model and
  // here; only when the step asked for it.
  Tensor cross_moment{};
  int expert = -1;  // at mlp_out of a mixture: whose down gets these; the tokens are those that chose it
};
// An expert that fewer tokens chose is starved: statistics of it say too little.
inline constexpr int64_t kStarvedTokens = 64;

class Step {
 public:
  virtual ~Step() = default;

  // Whether compress() heeds StageInput::expert; blocks that are mixtures are refused (exit 4) otherwise.
  virtual bool takes_experts() const { return false; }

  // Whether edit() and compress() take second moments that lie on the device of the walk; others get copies
  // in host memory.
  virtual bool takes_device_moments() const { return false; }
  // The same of edit() alone, which searches with them.
  virtual bool takes_device_surveys() const { return takes_device_moments(); }

  // Statistics of all sites of the unchanged block, before edit(). All empty: no such pass is made. Nothing
  // is collected at mlp_out of a mixture: its entry has no tokens.
  virtual StatisticSet survey(int block, Site site) const {
    static_cast<void>(block), static_cast<void>(site);
    return {};
  }
  // May change any tensor of the block in ways that keep its function (folded scales) or not.
  virtual Status edit(BlockEdit& block, const std::map<Site, SiteStatistics>& survey) {
    static_cast<void>(block), static_cast<void>(survey);
    return {};
  }

  // Then, site by site: statistics of the inputs that the compressed earlier parts produce, and the edit of
  // the linears that read them.
  virtual StatisticSet wanted(int block, Site site) const = 0;
  virtual bool wants_cross_moment() const { return false; }
  virtual Status compress(BlockEdit& block, const StageInput& input) = 0;
};

}  // namespace pare
