// engine/backends/reference/training_class.h: the operations of training, scalar and in double: the
// definition that every other backend is compared with. One .cpp per family of ops.
#pragma once

#include "engine/tensor/training_backend.h"

namespace pare::reference {

class ReferenceTraining final : public TrainingBackend {
 public:
  size_t matmul_input_backward_workspace_bytes(int64_t, int64_t, int64_t) const override { return 0; }
  void matmul_input_backward(const MatmulInputBackwardArgs& a) override;
  size_t matmul_weight_backward_workspace_bytes(int64_t, int64_t, int64_t) const override { return 0; }
  void matmul_weight_backward(const MatmulWeightBackwardArgs& a) override;

  void rms_norm_backward(const RmsNormBackwardArgs& a) override;
  void layer_norm_backward(const LayerNormBackwardArgs& a) override;
  void rotary_backward(const RotaryArgs& a) override;
  void attention_backward(const AttentionBackwardArgs& a) override;
  void activation_backward(const ActivationBackwardArgs& a) override;
  void gated_activation_backward(const GatedActivationBackwardArgs& a) override;
  void softmax_backward(const SoftmaxBackwardArgs& a) override;
  void embedding_backward(const EmbeddingBackwardArgs& a) override;

  void loss_rows(const LossRowsArgs& a) override;

  void adamw(const AdamWArgs& a) override;
  void sgd(const SgdArgs& a) override;
  double sum_of_squares(const float* x, int64_t count) override;
  void fake_quantize(const FakeQuantizeArgs& a) override;
  void fake_quantize_backward(const FakeQuantizeBackwardArgs& a) override;

  void state_distance(const StateDistanceArgs& a) override;  // training_states.cpp
  void relation_rows(const RelationRowsArgs& a) override;
};

}  // namespace pare::reference
