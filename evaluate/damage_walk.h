// evaluate/damage_walk.h: one model walked over all tokens, one block in memory at a time; internal to
// evaluate.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "engine/models/model.h"
#include "evaluate/damage_report.h"

namespace pare {

// Consecutive windows of equal length that go through a block together.
struct WindowGroup {
  size_t first = 0, count = 0;  // windows
  int64_t row = 0;              // of the hidden states
  Batch batch;
};
std::vector<WindowGroup> window_groups(std::span<const EvaluationWindow> windows, int64_t batch_tokens);

class DamageWalk {
 public:
  // Hidden states of all rows and the workspace. Nothing of the model is loaded yet. Exit 3, 4, 6.
  static Result<DamageWalk> open(std::shared_ptr<const WeightSource> source,
                                 const std::vector<WindowGroup>& groups, int64_t logit_rows, Device device);

  Model& model() { return *model_; }
  const Tensor& hidden() const { return hidden_; }  // f32 [rows, hidden], on the device

  // ids i32 [rows], in the order of the groups.
  Status embed(const Tensor& ids, const std::vector<WindowGroup>& groups);
  // What is loaded after this block: of this walk, or of another on the same device.
  struct NextBlock {
    DamageWalk& walk;
    int index;
  };
  // Loads, runs and drops one block. `histograms` may be null: then sites are not looked at.
  Status run_block(int index, const std::vector<WindowGroup>& groups,
                   std::map<Site, MagnitudeHistogram>* histograms,
                   const std::function<Status(int64_t tokens)>& advance, const NextBlock& next);
  Status load_head() { return model_->load_head(); }
  // Logits of rows [begin, end) of the hidden states; a view that the next call overwrites.
  Result<Tensor> logits(int64_t begin, int64_t end);

 private:
  DamageWalk() = default;
  Status run_stages(int index, const Batch& batch, Tensor& hidden,
                    std::map<Site, MagnitudeHistogram>& histograms);
  std::unique_ptr<Model> model_;
  Tensor hidden_, logits_;
  Workspace workspace_;
};

// Bytes of workspace for run_block() and logits().
size_t walk_workspace_bytes(const Model& model, const std::vector<WindowGroup>& groups, int64_t logit_rows);

}  // namespace pare
