#include "tests/engine/backends/host_view.h"

#include "engine/core/assert.h"
#include "engine/tensor/training_backend.h"

namespace pare::test {
namespace {

// Waits, so that results are there when the test looks, and an error names the operation.
void settle(Backend& backend) {
  const Status status = backend.finish();
  PARE_ASSERT(status.has_value(), "[host_view] {}", status ? "" : format_error(status.error()));
}

class TrainingView final : public TrainingBackend {
 public:
  TrainingView(Backend& backend, TrainingBackend& inner) : backend_(backend), inner_(inner) {}
  size_t matmul_input_backward_workspace_bytes(int64_t m, int64_t n, int64_t k) const override {
    return inner_.matmul_input_backward_workspace_bytes(m, n, k);
  }
  void matmul_input_backward(const MatmulInputBackwardArgs& a) override {
    inner_.matmul_input_backward(a);
    settle();
  }
  size_t matmul_weight_backward_workspace_bytes(int64_t m, int64_t n, int64_t k) const override {
    return inner_.matmul_weight_backward_workspace_bytes(m, n, k);
  }
  void matmul_weight_backward(const MatmulWeightBackwardArgs& a) override {
    inner_.matmul_weight_backward(a);
    settle();
  }
  void rms_norm_backward(const RmsNormBackwardArgs& a) override {
    inner_.rms_norm_backward(a);
    settle();
  }
  void layer_norm_backward(const LayerNormBackwardArgs& a) override {
    inner_.layer_norm_backward(a);
    settle();
  }
  void rotary_backward(const RotaryArgs& a) override {
    inner_.rotary_backward(a);
    settle();
  }
  void attention_backward(const AttentionBackwardArgs& a) override {
    inner_.attention_backward(a);
    settle();
  }
  void activation_backward(const ActivationBackwardArgs& a) override {
    inner_.activation_backward(a);
    settle();
  }
  void gated_activation_backward(const GatedActivationBackwardArgs& a) override {
    inner_.gated_activation_backward(a);
    settle();
  }
  void softmax_backward(const SoftmaxBackwardArgs& a) override {
    inner_.softmax_backward(a);
    settle();
  }
  void embedding_backward(const EmbeddingBackwardArgs& a) override {
    inner_.embedding_backward(a);
    settle();
  }
  void loss_rows(const LossRowsArgs& a) override {
    inner_.loss_rows(a);
    settle();
  }
  void adamw(const AdamWArgs& a) override {
    inner_.adamw(a);
    settle();
  }
  void sgd(const SgdArgs& a) override {
    inner_.sgd(a);
    settle();
  }
  double sum_of_squares(const float* x, int64_t count) override { return inner_.sum_of_squares(x, count); }
  void fake_quantize(const FakeQuantizeArgs& a) override {
    inner_.fake_quantize(a);
    settle();
  }
  void fake_quantize_backward(const FakeQuantizeBackwardArgs& a) override {
    inner_.fake_quantize_backward(a);
    settle();
  }
  void adamw_list(std::span<const AdamWArgs> list) override {
    inner_.adamw_list(list);
    settle();
  }
  double sum_of_squares_list(std::span<const SquaresArgs> list) override {
    return inner_.sum_of_squares_list(list);
  }
  void state_distance(const StateDistanceArgs& a) override {
    inner_.state_distance(a);
    settle();
  }
  void relation_rows(const RelationRowsArgs& a) override {
    inner_.relation_rows(a);
    settle();
  }
  void state_moments(const StateMomentsArgs& a) override {
    inner_.state_moments(a);
    settle();
  }
  void add_sum(const AddSumArgs& a) override {
    inner_.add_sum(a);
    settle();
  }
  void add_rows(const AddRowsArgs& a) override {
    inner_.add_rows(a);
    settle();
  }
  void round_inputs(const RoundInputsArgs& a) override {
    inner_.round_inputs(a);
    settle();
  }
  void round_inputs_backward(const RoundInputsBackwardArgs& a) override {
    inner_.round_inputs_backward(a);
    settle();
  }
  void apply_mask(const MaskArgs& a) override {
    inner_.apply_mask(a);
    settle();
  }
  void column_sums(const ColumnSumsArgs& a) override {
    inner_.column_sums(a);
    settle();
  }
  void scale(const ScaleArgs& a) override {
    inner_.scale(a);
    settle();
  }
  void round(const RoundArgs& a) override {
    inner_.round(a);
    settle();
  }
  void bound_steps(const BoundStepsArgs& a) override {
    inner_.bound_steps(a);
    settle();
  }

 private:
  void settle() const { test::settle(backend_); }
  Backend& backend_;
  TrainingBackend& inner_;
};

class HostView final : public Backend {
 public:
  explicit HostView(std::unique_ptr<Backend> gpu)
      : inner_(std::move(gpu)), training_(*inner_, *inner_->training()) {}

  Device device() const override { return Device::cpu(); }
  std::string description() const override { return inner_->description(); }
  Result<std::shared_ptr<Storage>> allocate(size_t bytes) override {
    return Storage::allocate(bytes, Device::cpu());
  }
  double operand_roundoff() const override { return inner_->operand_roundoff(); }
  TrainingBackend* training() override { return &training_; }
  StatisticsBackend* statistics() override { return inner_->statistics(); }  // finish() before looking
  Status finish() override { return inner_->finish(); }

  void zero(void* to, size_t bytes) override {
    (*inner_).zero(to, bytes);
    settle();
  }
  void copy_rows(const CopyRowsArgs& a) override {
    (*inner_).copy_rows(a);
    settle();
  }
  void rms_norm(const RmsNormArgs& a) override {
    (*inner_).rms_norm(a);
    settle();
  }
  void layer_norm(const LayerNormArgs& a) override {
    (*inner_).layer_norm(a);
    settle();
  }
  void rotary(const RotaryArgs& a) override {
    (*inner_).rotary(a);
    settle();
  }
  void attention(const AttentionArgs& a) override {
    (*inner_).attention(a);
    settle();
  }
  void kv_append(const KvAppendArgs& a) override {
    (*inner_).kv_append(a);
    settle();
  }
  void kv_round(const KvRoundArgs& a) override {
    (*inner_).kv_round(a);
    settle();
  }
  void activation(const ActivationArgs& a) override {
    (*inner_).activation(a);
    settle();
  }
  void gated_activation(const GatedActivationArgs& a) override {
    (*inner_).gated_activation(a);
    settle();
  }
  void add(const AddArgs& a) override {
    (*inner_).add(a);
    settle();
  }
  void softcap(const SoftcapArgs& a) override {
    (*inner_).softcap(a);
    settle();
  }
  void softmax(const SoftmaxArgs& a) override {
    (*inner_).softmax(a);
    settle();
  }
  void embedding(const EmbeddingArgs& a) override {
    (*inner_).embedding(a);
    settle();
  }
  void quantized_embedding(const QuantizedEmbeddingArgs& a) override {
    (*inner_).quantized_embedding(a);
    settle();
  }
  void cross_entropy(const CrossEntropyArgs& a) override {
    (*inner_).cross_entropy(a);
    settle();
  }
  void divergence(const DivergenceArgs& a) override {
    (*inner_).divergence(a);
    settle();
  }
  size_t matmul_workspace_bytes(int64_t m, int64_t n, int64_t k) const override {
    return (*inner_).matmul_workspace_bytes(m, n, k);
  }
  void matmul(const MatmulArgs& a) override {
    (*inner_).matmul(a);
    settle();
  }
  Result<PackedMatrix> prepack(std::shared_ptr<const QuantizedTensor> weight) override {
    return (*inner_).prepack(std::move(weight));
  }
  Result<QuantizedTensor> unpack(const PackedMatrix& packed) override { return (*inner_).unpack(packed); }
  size_t packed_matmul_workspace_bytes(const PackedMatrix& weight, int64_t m) const override {
    return (*inner_).packed_matmul_workspace_bytes(weight, m);
  }
  void packed_matmul(const PackedMatmulArgs& a) override {
    (*inner_).packed_matmul(a);
    settle();
  }
  KernelChoice choose_sparse(const SparseSummary& weight) const override {
    return (*inner_).choose_sparse(weight);
  }
  Result<PackedMatrix> prepack_sparse(std::shared_ptr<const SparseTensor> weight) override {
    return (*inner_).prepack_sparse(std::move(weight));
  }
  Result<SparseTensor> unpack_sparse(const PackedMatrix& packed) override {
    return (*inner_).unpack_sparse(packed);
  }

 private:
  void settle() const { test::settle(*inner_); }
  std::unique_ptr<Backend> inner_;
  TrainingView training_;
};

}  // namespace

std::unique_ptr<Backend> make_host_view(std::unique_ptr<Backend> gpu) {
  return std::make_unique<HostView>(std::move(gpu));
}

}  // namespace pare::test
