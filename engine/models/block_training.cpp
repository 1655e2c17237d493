// A block for training.
#include <algorithm>
#include <cstring>

#include "engine/core/parallel.h"
#include "engine/models/block.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

void copy(const Tensor& from, Tensor& to) {
  if (!from.device().is_host()) {
    static_cast<void>(copy_into(from, to));  // an error of the device is told at the next wait
    return;
  }
  constexpr int64_t kBytesAtOnce = 1 << 18;
  parallel_ranges(int64_t(from.size_bytes()), kBytesAtOnce, [&](int64_t begin, int64_t end) {
    std::memcpy(to.mutable_raw() + begin, from.raw() + begin, size_t(end - begin));
  });
}

}  // namespace

BlockActivations Block::take_activations(const Batch& batch, Workspace& kept) const {
  BlockActivations activations;
  activations.attention = attention_.take_activations(batch.tokens(), kept);
  activations.middle = kept.take(DType::f32, {batch.tokens(), hidden_size_});
  if (is_mixture()) {
    activations.experts = experts_.take_activations(batch.tokens(), kept);
  } else {
    activations.mlp = mlp_.take_activations(batch.tokens(), kept);
  }
  return activations;
}

size_t Block::activation_bytes(const Batch& batch) const {
  const int64_t tokens = batch.tokens();
  return attention_.activation_bytes(tokens) + Workspace::bytes_for(DType::f32, {tokens, hidden_size_}) +
         (is_mixture() ? experts_.activation_bytes(tokens) : mlp_.activation_bytes(tokens));
}

void Block::forward_training(const Tensor& x, const Batch& batch, const RotaryTable* rotary,
                             BlockActivations& kept, Tensor& out, Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  Tensor normed = workspace.take(DType::f32, x.shape());
  input_norm_.forward(x, normed);
  copy(x, kept.middle);
  attention_.forward_training(normed, batch, rotary, kept.attention, kept.middle, workspace);
  post_attention_norm_.forward(kept.middle, normed);
  copy(kept.middle, out);
  if (is_mixture()) {
    experts_.forward_training(normed, kept.experts, out, workspace);
  } else {
    mlp_.forward_training(normed, kept.mlp, out, workspace);
  }
}

Status Block::backward(const Tensor& x, const Batch& batch, const RotaryTable* rotary,
                       const BlockActivations& kept, const AttentionHook& on_attention, Tensor& dhidden,
                       Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  Tensor normed = workspace.take(DType::f32, x.shape());
  Tensor dnormed = workspace.take(DType::f32, x.shape());
  // y = middle + mlp(norm(middle))
  post_attention_norm_.forward(kept.middle, normed);
  if (is_mixture()) {
    experts_.backward(normed, kept.experts, dhidden, dnormed, workspace);
  } else {
    mlp_.backward(normed, kept.mlp, dhidden, /*accumulate=*/false, dnormed, workspace);
  }
  post_attention_norm_.backward(kept.middle, dnormed, /*accumulate=*/true, dhidden, workspace);
  // middle = x + attention(norm(x))
  input_norm_.forward(x, normed);
  PARE_CHECK(
      attention_.backward(normed, batch, rotary, kept.attention, dhidden, on_attention, dnormed, workspace));
  input_norm_.backward(x, dnormed, /*accumulate=*/true, dhidden, workspace);
  return {};
}

AttentionParts Block::attention_parts(const Tensor& x, const Batch& batch, const RotaryTable* rotary,
                                      Workspace& kept, Workspace& workspace) const {
  const Workspace::Scope scope(workspace);
  AttentionActivations activations = attention_.take_activations(batch.tokens(), kept);
  Tensor normed = workspace.take(DType::f32, x.shape());
  input_norm_.forward(x, normed);
  attention_.project(normed, batch, rotary, activations, workspace);
  return activations.parts;
}

size_t Block::attention_bytes(const Batch& batch) const {
  return attention_.activation_bytes(batch.tokens());
}

size_t Block::training_workspace_bytes(const Batch& batch) const {
  const int64_t tokens = batch.tokens();
  return 2 * Workspace::bytes_for(DType::f32, {tokens, hidden_size_}) +
         std::max({attention_.training_workspace_bytes(batch),
                   is_mixture() ? experts_.training_workspace_bytes(tokens)
                                : mlp_.training_workspace_bytes(tokens),
                   Norm::backward_workspace_bytes(tokens)});
}

}  // namespace pare
