// engine/models/block.h: one transformer layer, built from its BlockConfig and its weights.
//   h = x + attention(norm1 x);  y = h + mlp(norm2 h), or a mixture of experts in place of the MLP
#pragma once

#include <memory>

#include "engine/models/layers/attention.h"
#include "engine/models/layers/experts.h"
#include "engine/models/layers/mlp.h"
#include "engine/models/layers/norm.h"

namespace pare {

struct TrainingSet;  // weight_training.h

// What a block keeps of a batch for its backward; the input is kept by the caller.
struct BlockActivations {
  AttentionActivations attention;
  Tensor middle;  // f32 [tokens, hidden]: the stream between the halves
  MlpActivations mlp;
  ExpertActivations experts;
};

class Block {
 public:
  // Loads every tensor of block `index`; with `training` for training, registered there. Exit 3, 4, 5, 6.
  static Result<std::unique_ptr<Block>> load(const WeightSource& source, const ModelDescription& description,
                                             int index, Device device, TrainingSet* training = nullptr);
  // The same block without values; only workspace_bytes() may be asked.
  static std::unique_ptr<Block> plan(const WeightSource& source, const ModelDescription& description,
                                     int index, Device device);

  // In place: hidden f32 [tokens, hidden]. rotary is null for learned positions.
  Status forward(const Batch& batch, const RotaryTable* rotary, BlockCache* cache, Tensor& hidden,
                 Workspace& workspace) const;
  size_t workspace_bytes(const Batch& batch) const;

  // forward() in four stages, for callers that look at the inputs of linears or replace linears in between.
  // In order, with `hidden` the block's input f32 [tokens, hidden] and x f32 [tokens, site_channels(site)]:
  //   produce(attention_in, hidden, x0); produce(attention_out, x0, x1); consume(attention_out, x1, hidden);
  //   produce(mlp_in, hidden, x2);       produce(mlp_out, x2, x3);       consume(mlp_out, x3, hidden);
  // gives the same bytes as forward(). Workspace as for forward(). In a mixture x3 are rows of slots
  // (expert_slots.h).
  void produce(Site site, const Batch& batch, const RotaryTable* rotary, const Tensor& from, Tensor& x,
               Workspace& workspace) const;
  // hidden += linear(x), with the linear of attention_out or mlp_out (of the chosen experts, by their
  // shares).
  void consume(Site site, const Tensor& x, Tensor& hidden, Workspace& workspace) const;
  int64_t site_channels(Site site) const;

  // Training. forward_training: out = block(x), other memory than x; what backward needs goes to `kept`,
  // taken for this batch. backward: dhidden holds the gradient of out and becomes that of x; those of
  // parameters are added to. on_attention (may be empty) sees the parts of the attention and may add to their
  // gradients.
  BlockActivations take_activations(const Batch& batch, Workspace& kept) const;
  size_t activation_bytes(const Batch& batch) const;
  void forward_training(const Tensor& x, const Batch& batch, const RotaryTable* rotary,
                        BlockActivations& kept, Tensor& out, Workspace& workspace) const;
  Status backward(const Tensor& x, const Batch& batch, const RotaryTable* rotary,
                  const BlockActivations& kept, const AttentionHook& on_attention, Tensor& dhidden,
                  Workspace& workspace) const;
  size_t training_workspace_bytes(const Batch& batch) const;
  // Queries, keys and values alone, of the block's input x; taken from `kept` (attention_bytes).
  AttentionParts attention_parts(const Tensor& x, const Batch& batch, const RotaryTable* rotary,
                                 Workspace& kept, Workspace& workspace) const;
  size_t attention_bytes(const Batch& batch) const;
  // out = down_e(inner): what one expert of a mixture gives, before its share.
  void expert_output(int expert, const Tensor& inner, Tensor& out, Workspace& workspace) const;
  // Loads the part of this role (of an expert) again, after the source has changed. Biases and norms
  // included.
  Status reload(const WeightSource& source, const ModelDescription& description, int index, Role role,
                Device device, int expert = -1);
  uint64_t size_bytes() const;

  // Its parts, for a runner that puts the same computation together in another way (run/decode_runner.h).
  bool is_mixture() const { return !experts_.experts.empty(); }
  const Norm& input_norm() const { return input_norm_; }
  const Norm& post_attention_norm() const { return post_attention_norm_; }
  const Attention& attention() const { return attention_; }
  const Mlp& mlp() const { return mlp_; }  // not of a mixture

 private:
  explicit Block(const ModelConfig& config, int index);
  int64_t hidden_size_;
  bool has_rotary_;
  Norm input_norm_, post_attention_norm_;
  Attention attention_;
  Mlp& mlp_of(int expert) { return expert < 0 ? mlp_ : experts_.experts[size_t(expert)]; }
  Mlp mlp_;
  Experts experts_;  // instead of mlp_ in a mixture
};

}  // namespace pare
