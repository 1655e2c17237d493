// engine/backends/cuda/training_class.h: the operations of training on a GPU; one .cu per family of ops.
#pragma once

#include "engine/backends/cuda/context.h"
#include "engine/tensor/training_backend.h"

namespace pare::cuda {

class CudaTraining final : public TrainingBackend {
 public:
  explicit CudaTraining(Context& context) : context_(context) {}

  size_t matmul_input_backward_workspace_bytes(int64_t m, int64_t n, int64_t k) const override;
  void matmul_input_backward(const MatmulInputBackwardArgs& a) override;
  size_t matmul_weight_backward_workspace_bytes(int64_t m, int64_t n, int64_t k) const override;
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

  void adamw_list(std::span<const AdamWArgs> list) override;
  double sum_of_squares_list(std::span<const SquaresArgs> list) override;
  void state_distance(const StateDistanceArgs& a) override;  // training_states.cu
  void relation_rows(const RelationRowsArgs& a) override;
  void state_moments(const StateMomentsArgs& a) override;
  void add_sum(const AddSumArgs& a) override;
  void add_rows(const AddRowsArgs& a) override;
  void round_inputs(const RoundInputsArgs& a) override;  // training_inputs.cu
  void round_inputs_backward(const RoundInputsBackwardArgs& a) override;
  void apply_mask(const MaskArgs& a) override;
  void column_sums(const ColumnSumsArgs& a) override;
  void scale(const ScaleArgs& a) override;
  void round(const RoundArgs& a) override;
  void bound_steps(const BoundStepsArgs& a) override;

 private:
  Context& context_;
};

}  // namespace pare::cuda
