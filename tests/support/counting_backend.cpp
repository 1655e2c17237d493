#include "tests/support/counting_backend.h"

#include "engine/core/assert.h"
#include "engine/tensor/quantized_rows_backend.h"

namespace pare::test {
namespace {

class CountingRows final : public QuantizedRowsBackend {
 public:
  CountingRows(QuantizedRowsBackend& inner, RowCounts& counts) : inner_(inner), counts_(counts) {}
  bool reads_rounded(const PackedMatrix& weight) const override { return inner_.reads_rounded(weight); }
  bool rounds_alike(const PackedMatrix& a, const PackedMatrix& b) const override {
    return inner_.rounds_alike(a, b);
  }
  size_t rows_bytes(const PackedMatrix& weight, int64_t m) const override {
    return inner_.rows_bytes(weight, m);
  }
  void round_rows(const RoundRowsArgs& a) override {
    ++counts_.roundings;
    inner_.round_rows(a);
  }
  void rms_norm_rows(const RmsNormRowsArgs& a) override {
    ++counts_.rounded_norms;
    inner_.rms_norm_rows(a);
  }
  void layer_norm_rows(const LayerNormRowsArgs& a) override {
    ++counts_.rounded_norms;
    inner_.layer_norm_rows(a);
  }
  void matmul(const RoundedMatmulArgs& a) override {
    ++counts_.rounded_products;
    inner_.matmul(a);
  }

 private:
  QuantizedRowsBackend& inner_;
  RowCounts& counts_;
};

#define PARE_HANDED_ON(name, Args)    \
  void name(const Args& a) override { \
    inner_->name(a);                  \
  }

class CountingBackend final : public Backend {
 public:
  CountingBackend(std::unique_ptr<Backend> inner, bool has_rounded_rows, RowCounts& counts)
      : inner_(std::move(inner)), counts_(counts) {
    QuantizedRowsBackend* rows = inner_->quantized_rows();
    PARE_ASSERT(rows != nullptr, "[counting] {} has no rounded rows", inner_->description());
    if (has_rounded_rows) rows_ = std::make_unique<CountingRows>(*rows, counts);
  }
  Device device() const override { return inner_->device(); }
  std::string description() const override { return inner_->description(); }
  Result<std::shared_ptr<Storage>> allocate(size_t bytes) override { return inner_->allocate(bytes); }
  Status upload(void* to, const void* from, size_t bytes) override { return inner_->upload(to, from, bytes); }
  Status download(void* to, const void* from, size_t bytes) override {
    return inner_->download(to, from, bytes);
  }
  Status finish() override { return inner_->finish(); }
  void zero(void* to, size_t bytes) override { inner_->zero(to, bytes); }
  double operand_roundoff() const override { return inner_->operand_roundoff(); }
  DType kv_dtype() const override { return inner_->kv_dtype(); }

  void rms_norm(const RmsNormArgs& a) override {
    ++counts_.norms;
    inner_->rms_norm(a);
  }
  void layer_norm(const LayerNormArgs& a) override {
    ++counts_.norms;
    inner_->layer_norm(a);
  }
  void packed_matmul(const PackedMatmulArgs& a) override {
    ++counts_.packed_products;
    inner_->packed_matmul(a);
  }
  PARE_HANDED_ON(copy_rows, CopyRowsArgs)
  PARE_HANDED_ON(positions, PositionsArgs)
  PARE_HANDED_ON(gather_rows, GatherRowsArgs)
  PARE_HANDED_ON(scatter_rows, ScatterRowsArgs)
  PARE_HANDED_ON(rotary, RotaryArgs)
  PARE_HANDED_ON(attention, AttentionArgs)
  PARE_HANDED_ON(kv_append, KvAppendArgs)
  PARE_HANDED_ON(kv_round, KvRoundArgs)
  PARE_HANDED_ON(activation, ActivationArgs)
  PARE_HANDED_ON(gated_activation, GatedActivationArgs)
  PARE_HANDED_ON(add, AddArgs)
  PARE_HANDED_ON(softcap, SoftcapArgs)
  PARE_HANDED_ON(softmax, SoftmaxArgs)
  PARE_HANDED_ON(embedding, EmbeddingArgs)
  PARE_HANDED_ON(quantized_embedding, QuantizedEmbeddingArgs)
  PARE_HANDED_ON(cross_entropy, CrossEntropyArgs)
  PARE_HANDED_ON(divergence, DivergenceArgs)
  PARE_HANDED_ON(matmul, MatmulArgs)
  size_t matmul_workspace_bytes(int64_t m, int64_t n, int64_t k) const override {
    return inner_->matmul_workspace_bytes(m, n, k);
  }
  size_t packed_matmul_workspace_bytes(const PackedMatrix& weight, int64_t m) const override {
    return inner_->packed_matmul_workspace_bytes(weight, m);
  }
  Result<PackedMatrix> prepack(std::shared_ptr<const QuantizedTensor> weight) override {
    return inner_->prepack(std::move(weight));
  }
  Result<QuantizedTensor> unpack(const PackedMatrix& packed) override { return inner_->unpack(packed); }
  KernelChoice choose_sparse(const SparseSummary& weight) const override {
    return inner_->choose_sparse(weight);
  }
  Result<PackedMatrix> prepack_sparse(std::shared_ptr<const SparseTensor> weight) override {
    return inner_->prepack_sparse(std::move(weight));
  }
  Result<SparseTensor> unpack_sparse(const PackedMatrix& packed) override {
    return inner_->unpack_sparse(packed);
  }
  TrainingBackend* training() override { return inner_->training(); }
  StatisticsBackend* statistics() override { return inner_->statistics(); }
  DecodeBackend* decoding() override { return inner_->decoding(); }
  SelectionBackend* selection() override { return inner_->selection(); }
  QuantizedRowsBackend* quantized_rows() override { return rows_.get(); }

 private:
  std::unique_ptr<Backend> inner_;
  RowCounts& counts_;
  std::unique_ptr<CountingRows> rows_;
};

}  // namespace

std::unique_ptr<Backend> make_counting_backend(std::unique_ptr<Backend> inner, bool has_rounded_rows,
                                               RowCounts& counts) {
  return std::make_unique<CountingBackend>(std::move(inner), has_rounded_rows, counts);
}

}  // namespace pare::test
