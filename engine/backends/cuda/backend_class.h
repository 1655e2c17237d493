// engine/backends/cuda/backend_class.h: the class behind make_cuda_backend(); one .cu per family of ops.
#pragma once

#include "engine/backends/cuda/context.h"
#include "engine/backends/cuda/decode_class.h"
#include "engine/backends/cuda/quantized_rows_class.h"
#include "engine/backends/cuda/selection_class.h"
#include "engine/backends/cuda/statistics_class.h"
#include "engine/backends/cuda/training_class.h"
#include "engine/tensor/backend.h"

namespace pare::cuda {

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(std::unique_ptr<Context> context)
      : context_(std::move(context)),
        training_(*context_),
        statistics_(*context_),
        selection_(*context_),
        decode_(*context_),
        quantized_rows_(*context_) {}
  ~CudaBackend() override;

  Device device() const override { return Device::cuda(context_->index()); }
  std::string description() const override;
  Result<std::shared_ptr<Storage>> allocate(size_t bytes) override;
  Status upload(void* to, const void* from, size_t bytes) override;
  void prefetch(std::span<const HostRange> ranges) override;
  Status download(void* to, const void* from, size_t bytes) override;
  Status finish() override;
  void zero(void* to, size_t bytes) override;
  void copy_rows(const CopyRowsArgs& a) override;
  void positions(const PositionsArgs& a) override;  // rows.cu
  void gather_rows(const GatherRowsArgs& a) override;
  void scatter_rows(const ScatterRowsArgs& a) override;
  DType kv_dtype() const override { return context_->math() == MathMode::f32 ? DType::f32 : DType::bf16; }
  double operand_roundoff() const override { return context_->math() == MathMode::f32 ? 0.0 : 0x1p-8; }

  void rms_norm(const RmsNormArgs& a) override;  // norm.cu
  void layer_norm(const LayerNormArgs& a) override;
  void rotary(const RotaryArgs& a) override;        // rotary.cu
  void attention(const AttentionArgs& a) override;  // attention.cu
  void kv_append(const KvAppendArgs& a) override;   // kv_cache.cu
  void kv_round(const KvRoundArgs& a) override;
  void activation(const ActivationArgs& a) override;  // activation.cu
  void gated_activation(const GatedActivationArgs& a) override;
  void add(const AddArgs& a) override;
  void softcap(const SoftcapArgs& a) override;
  void softmax(const SoftmaxArgs& a) override;      // softmax.cu
  void embedding(const EmbeddingArgs& a) override;  // embedding.cu
  void quantized_embedding(const QuantizedEmbeddingArgs& a) override;
  void cross_entropy(const CrossEntropyArgs& a) override;  // cross_entropy.cu
  void divergence(const DivergenceArgs& a) override;

  size_t matmul_workspace_bytes(int64_t m, int64_t n, int64_t k) const override;  // matmul.cu
  void matmul(const MatmulArgs& a) override;

  Result<PackedMatrix> prepack(std::shared_ptr<const QuantizedTensor> weight) override;  // packed_*.cu
  Result<QuantizedTensor> unpack(const PackedMatrix& packed) override;
  size_t packed_matmul_workspace_bytes(const PackedMatrix& weight, int64_t m) const override;
  void packed_matmul(const PackedMatmulArgs& a) override;
  KernelChoice choose_sparse(const SparseSummary& weight) const override;  // sparse_*.cu
  Result<PackedMatrix> prepack_sparse(std::shared_ptr<const SparseTensor> weight) override;
  Result<SparseTensor> unpack_sparse(const PackedMatrix& packed) override;

  TrainingBackend* training() override { return &training_; }
  StatisticsBackend* statistics() override { return &statistics_; }
  DecodeBackend* decoding() override;
  SelectionBackend* selection() override { return &selection_; }
  QuantizedRowsBackend* quantized_rows() override { return &quantized_rows_; }

  Context& context() { return *context_; }
  const Context& context() const { return *context_; }

 private:
  std::unique_ptr<Context> context_;
  CudaTraining training_;
  CudaStatistics statistics_;
  CudaSelection selection_;
  CudaDecode decode_;
  CudaQuantizedRows quantized_rows_;
};

}  // namespace pare::cuda
