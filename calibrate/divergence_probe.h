// calibrate/divergence_probe.h: how far the model's output moves when one site of one block is compressed.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "calibrate/block_pipeline.h"
#include "engine/models/edited_source.h"
#include "engine/models/model.h"

namespace pare {

class DivergenceProbe {
 public:
  // The first `windows` windows; divergence is measured at `rows` positions spread evenly over them. Holds
  // all weights of the model and the original logits of those positions, on `device`. Exit 6 beyond
  // `memory_limit` bytes there.
  static Result<std::unique_ptr<DivergenceProbe>> create(std::shared_ptr<const WeightSource> source,
                                                         const CalibrationWindows& windows,
                                                         int64_t window_count, int64_t rows,
                                                         uint64_t memory_limit,
                                                         Device device = Device::cpu());
  // A matrix in place of another one; weight: f32 [out, in].
  using Replacement = std::function<Result<WeightData>(const TensorSpec& spec, const Tensor& weight)>;
  // Mean KL (nats per position) of the original's output from the output with these matrices replaced. All
  // belong to block `block`; blocks come in rising order.
  Result<double> divergence(int block, const std::vector<const TensorSpec*>& linears,
                            const Replacement& replacement);

 private:
  DivergenceProbe() = default;
  Status advance_to(int block);
  Status logits_of(const Tensor& hidden, Tensor& logits);

  std::shared_ptr<EditedSource> source_;
  std::unique_ptr<Model> model_;
  Batch batch_;
  Workspace workspace_;
  Tensor hidden_, trial_;     // f32 [tokens, hidden]: the original entering `block_`, and a copy
  Tensor rows_;               // f32 [rows, hidden]
  Tensor original_, logits_;  // f32 [rows, vocabulary]
  Tensor original_sum_, sum_, nll_, best_, targets_, kl_;
  Tensor positions_;  // i32 [rows]: tokens
  int block_ = 0;
};

}  // namespace pare
