// engine/models/training_model.h: a model whose weights change: forward that keeps what backward needs, and
// backward.
//
//   PARE_TRY(model, TrainingModel::open(source, device, form));
//   PARE_CHECK(model->reserve({.sequences = 4, .tokens_per_sequence = 256}, /*keeps_blocks=*/true));
//   each micro-batch:
//     PARE_CHECK(model->forward(ids, batch));
//     loss of model->output() by model->final_norm() and model->head() -> dhidden   (distill/head_loss.h)
//     PARE_CHECK(model->backward(dhidden));
//   each step:
//     model->finish_gradients();  the optimizer changes parameters();  PARE_CHECK(model->refresh());
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "engine/models/layers/attention.h"
#include "engine/models/parameter.h"

namespace pare {

// Where losses of intermediate states enter the backward pass. Both may be empty.
struct BackwardHooks {
  // dhidden is the gradient of hidden(index), complete but for what is added here; index from block_count()
  // down to 0.
  std::function<Status(int index, Tensor& dhidden)> hidden;
  // parts of block `index`, and their gradients, to be added to.
  std::function<Status(int index, const AttentionParts& parts, AttentionParts& gradients)> attention;
};

class TrainingModel {
 public:
  // Loads everything. Exit 3, 4 (a form that cannot be trained: codes; a device without gradients), 6.
  static Result<std::unique_ptr<TrainingModel>> open(std::shared_ptr<const WeightSource> source,
                                                     Device device, const TrainingForm& form);
  ~TrainingModel();

  const ModelDescription& description() const;
  const ModelConfig& config() const { return description().config; }
  Device device() const;
  const WeightSource& source() const;

  // Everything that is trained, in execution order, each once.
  const ParameterList& parameters() const;
  int64_t parameter_count() const;
  void clear_gradients();
  // Gradients of the copies that multiply become those of the parameters; once per step, before they are
  // read.
  void finish_gradients();
  // The copies that multiply, from the parameters; after they changed. Exit 7 (a scale out of range).
  Status refresh();

  // Memory for batches up to this size. keeps_blocks: the activations of all blocks are kept; else only their
  // inputs, and each block runs again before its backward (the same bytes). Exit 6.
  Status reserve(const Batch& largest, bool keeps_blocks);
  // What reserve() takes, and what is held already.
  uint64_t activation_bytes(const Batch& largest, bool keeps_blocks) const;
  uint64_t weight_bytes() const;

  // ids i32 [tokens], batch.first_position 0. Exit 2 or 3 as Model::embed().
  Status forward(const Tensor& ids, const Batch& batch);
  // hidden(0): input of the first block; hidden(i): output of block i - 1; f32 [tokens, hidden size]. Valid
  // until the next forward().
  const Tensor& hidden(int index) const;
  const Tensor& output() const { return hidden(int(config().block_count())); }
  // Of the last forward(); runs the attention of a block again where it was not kept.
  Status attention_parts(int index, AttentionParts& parts);
  // In: the gradient of output(); used up. Gradients of parameters are added to.
  Status backward(Tensor& dhidden, const BackwardHooks& hooks = {});

  const Norm& final_norm() const;
  const Weight& head() const;  // the embedding when tied
  Workspace& workspace();      // free between forward() and backward(); head_bytes() more than they need
  // Bytes that the workspace shall have for callers; before reserve().
  void set_head_bytes(size_t bytes);

  // A tensor of the checkpoint as it is now: f32 in the checkpoint's own layout; codes from a transform; two
  // factors of a low-rank matrix; adapters added in.
  Result<WeightData> stored(const TensorSpec& spec) const;

 private:
  TrainingModel();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pare
