// engine/backends/reference/backend_class.h: the class behind make_reference_backend(); one .cpp per family
// of ops.
#pragma once

#include "engine/backends/reference/statistics_class.h"
#include "engine/backends/reference/training_class.h"
#include "engine/core/assert.h"
#include "engine/tensor/backend.h"
#include "engine/tensor/float_formats.h"

namespace pare::reference {

class ReferenceBackend final : public Backend {
 public:
  Device device() const override { return Device::reference(); }
  std::string description() const override { return "reference: scalar, double accumulation"; }
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

  // The packed form is the tensor itself, as PackedMatrix::canonical.
  Result<PackedMatrix> prepack(std::shared_ptr<const QuantizedTensor> weight) override;
  Result<QuantizedTensor> unpack(const PackedMatrix& packed) override;
  KernelChoice choose_sparse(const SparseSummary&) const override { return {true, "the definition"}; }
  Result<PackedMatrix> prepack_sparse(std::shared_ptr<const SparseTensor> weight) override;
  Result<SparseTensor> unpack_sparse(const PackedMatrix& packed) override;
  size_t packed_matmul_workspace_bytes(const PackedMatrix& weight, int64_t m) const override;
  void packed_matmul(const PackedMatmulArgs& a) override;

  TrainingBackend* training() override { return &training_; }
  StatisticsBackend* statistics() override { return &statistics_; }

 private:
  ReferenceTraining training_;
  ReferenceStatistics statistics_;
};

// Element `index` of an array of f32, bf16 or f16.
inline double load(const void* data, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::f32:
      return double(static_cast<const float*>(data)[index]);
    case DType::bf16:
      return double(bf16_to_float(static_cast<const uint16_t*>(data)[index]));
    case DType::f16:
      return double(f16_to_float(static_cast<const uint16_t*>(data)[index]));
    default:
      PARE_ASSERT(false, "[reference] element of type {}", dtype_name(dtype));
  }
  return 0.0;
}

}  // namespace pare::reference
