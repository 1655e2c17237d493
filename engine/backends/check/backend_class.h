// engine/backends/check/backend_class.h: the class behind make_check_backend(); one .cpp per family of ops.
#pragma once

#include "engine/backends/check/check_backend.h"
#include "engine/backends/check/comparison.h"

namespace pare::check {

class CheckBackend final : public Backend {
 public:
  CheckBackend(Backend& tested, Backend& oracle, const CheckOptions& options)
      : tested_(tested), oracle_(oracle), options_(options) {}

  Device device() const override { return Device::check(); }
  std::string description() const override;
  Result<std::shared_ptr<Storage>> allocate(size_t bytes) override;

  void rms_norm(const RmsNormArgs& a) override;
  void layer_norm(const LayerNormArgs& a) override;
  void rotary(const RotaryArgs& a) override;
  void attention(const AttentionArgs& a) override;
  void activation(const ActivationArgs& a) override;
  void gated_activation(const GatedActivationArgs& a) override;
  void add(const AddArgs& a) override;
  void softcap(const SoftcapArgs& a) override;
  void softmax(const SoftmaxArgs& a) override;
  void embedding(const EmbeddingArgs& a) override;
  void quantized_embedding(const QuantizedEmbeddingArgs& a) override;
  void cross_entropy(const CrossEntropyArgs& a) override;
  void divergence(const DivergenceArgs& a) override;

  size_t matmul_workspace_bytes(int64_t m, int64_t n, int64_t k) const override;
  void matmul(const MatmulArgs& a) override;

  // The tested backend's matrix, with the tensor itself kept beside it for the oracle. Asserts that unpacking
  // gives the tensor back.
  Result<PackedMatrix> prepack(std::shared_ptr<const QuantizedTensor> weight) override;
  Result<QuantizedTensor> unpack(const PackedMatrix& packed) override;
  KernelChoice choose_sparse(const SparseSummary& weight) const override { return tested_.choose_sparse(weight); }
  Result<PackedMatrix> prepack_sparse(std::shared_ptr<const SparseTensor> weight) override;
  Result<SparseTensor> unpack_sparse(const PackedMatrix& packed) override;
  size_t packed_matmul_workspace_bytes(const PackedMatrix& weight, int64_t m) const override;
  void packed_matmul(const PackedMatmulArgs& a) override;

 private:
  Subject subject(std::string op, std::string types) const {
    return {.op = std::move(op),
            .types = std::move(types),
            .tested = tested_.description(),
            .oracle = oracle_.description(),
            .slack = options_.slack};
  }
  // What the tested backend made, without the tensor that was added for the oracle.
  static PackedMatrix tested_form(const PackedMatrix& packed);

  Backend& tested_;
  Backend& oracle_;
  CheckOptions options_;
};

}  // namespace pare::check
