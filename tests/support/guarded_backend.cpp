#include "tests/support/guarded_backend.h"

#include <sys/mman.h>

#include <cstring>

#include "engine/core/assert.h"
#include "engine/tensor/training_backend.h"

namespace pare::test {
namespace {

// Addresses are handed out once; pages that nobody wrote take no memory.
class Arena {
 public:
  Arena() {
    void* begin = ::mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    PARE_ASSERT(begin != MAP_FAILED, "[guarded] no {} bytes", kBytes);
    begin_ = static_cast<std::byte*>(begin);
  }
  ~Arena() { ::munmap(begin_, kBytes); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  void* take(size_t bytes) {
    const size_t taken = (bytes + 255) / 256 * 256 + 256;
    PARE_ASSERT(taken <= kBytes - used_, "[guarded] {} bytes more than {}", taken, used_);
    std::byte* block = begin_ + used_;
    used_ += taken;
    open();
    std::memset(block, 0xff, bytes);
    close();
    return block;
  }
  void open() {
    if (++opened_ == 1) protect(PROT_READ | PROT_WRITE);
  }
  void close() {
    if (--opened_ == 0) protect(PROT_NONE);
  }

 private:
  static constexpr size_t kBytes = size_t(2) << 30;
  void protect(int mode) {
    const size_t pages = (used_ + 4095) / 4096 * 4096;
    PARE_ASSERT(::mprotect(begin_, pages, mode) == 0, "[guarded] mprotect");
  }
  std::byte* begin_ = nullptr;
  size_t used_ = 0;
  int opened_ = 0;
};

class Unlocked {
 public:
  explicit Unlocked(Arena& arena) : arena_(arena) { arena_.open(); }
  ~Unlocked() { arena_.close(); }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  Arena& arena_;
};

#define PARE_GUARDED(name, Args)      \
  void name(const Args& a) override { \
    const Unlocked unlocked(*arena_); \
    inner_.name(a);                   \
  }

class GuardedTraining final : public TrainingBackend {
 public:
  GuardedTraining(std::shared_ptr<Arena> arena, TrainingBackend& inner)
      : arena_(std::move(arena)), inner_(inner) {}
  size_t matmul_input_backward_workspace_bytes(int64_t m, int64_t n, int64_t k) const override {
    return inner_.matmul_input_backward_workspace_bytes(m, n, k);
  }
  size_t matmul_weight_backward_workspace_bytes(int64_t m, int64_t n, int64_t k) const override {
    return inner_.matmul_weight_backward_workspace_bytes(m, n, k);
  }
  PARE_GUARDED(matmul_input_backward, MatmulInputBackwardArgs)
  PARE_GUARDED(matmul_weight_backward, MatmulWeightBackwardArgs)
  PARE_GUARDED(rms_norm_backward, RmsNormBackwardArgs)
  PARE_GUARDED(layer_norm_backward, LayerNormBackwardArgs)
  PARE_GUARDED(rotary_backward, RotaryArgs)
  PARE_GUARDED(attention_backward, AttentionBackwardArgs)
  PARE_GUARDED(activation_backward, ActivationBackwardArgs)
  PARE_GUARDED(gated_activation_backward, GatedActivationBackwardArgs)
  PARE_GUARDED(softmax_backward, SoftmaxBackwardArgs)
  PARE_GUARDED(embedding_backward, EmbeddingBackwardArgs)
  PARE_GUARDED(loss_rows, LossRowsArgs)
  PARE_GUARDED(adamw, AdamWArgs)
  PARE_GUARDED(sgd, SgdArgs)
  PARE_GUARDED(fake_quantize, FakeQuantizeArgs)
  PARE_GUARDED(fake_quantize_backward, FakeQuantizeBackwardArgs)
  PARE_GUARDED(state_distance, StateDistanceArgs)
  PARE_GUARDED(relation_rows, RelationRowsArgs)
  PARE_GUARDED(state_moments, StateMomentsArgs)
  PARE_GUARDED(add_sum, AddSumArgs)
  PARE_GUARDED(add_rows, AddRowsArgs)
  PARE_GUARDED(round_inputs, RoundInputsArgs)
  PARE_GUARDED(round_inputs_backward, RoundInputsBackwardArgs)
  PARE_GUARDED(apply_mask, MaskArgs)
  PARE_GUARDED(column_sums, ColumnSumsArgs)
  PARE_GUARDED(scale, ScaleArgs)
  PARE_GUARDED(round, RoundArgs)
  PARE_GUARDED(bound_steps, BoundStepsArgs)
  double sum_of_squares(const float* x, int64_t count) override {
    const Unlocked unlocked(*arena_);
    return inner_.sum_of_squares(x, count);
  }

 private:
  std::shared_ptr<Arena> arena_;
  TrainingBackend& inner_;
};

class GuardedBackend final : public Backend {
 public:
  explicit GuardedBackend(std::unique_ptr<Backend> cpu)
      : own_(std::move(cpu)),
        inner_(*own_),
        arena_(std::make_shared<Arena>()),
        training_(arena_, *inner_.training()) {}

  Device device() const override { return Device::cuda(0); }
  std::string description() const override { return "guarded " + inner_.description(); }
  Result<std::shared_ptr<Storage>> allocate(size_t bytes) override {
    return Storage::adopt(arena_->take(bytes), bytes, arena_, device());
  }
  Status upload(void* to, const void* from, size_t bytes) override { return copy(to, from, bytes); }
  Status download(void* to, const void* from, size_t bytes) override { return copy(to, from, bytes); }
  Status finish() override { return {}; }
  void zero(void* to, size_t bytes) override {
    const Unlocked unlocked(*arena_);
    inner_.zero(to, bytes);
  }

  PARE_GUARDED(copy_rows, CopyRowsArgs)
  PARE_GUARDED(positions, PositionsArgs)
  PARE_GUARDED(gather_rows, GatherRowsArgs)
  PARE_GUARDED(scatter_rows, ScatterRowsArgs)
  PARE_GUARDED(rms_norm, RmsNormArgs)
  PARE_GUARDED(layer_norm, LayerNormArgs)
  PARE_GUARDED(rotary, RotaryArgs)
  PARE_GUARDED(attention, AttentionArgs)
  PARE_GUARDED(kv_append, KvAppendArgs)
  PARE_GUARDED(kv_round, KvRoundArgs)
  PARE_GUARDED(activation, ActivationArgs)
  PARE_GUARDED(gated_activation, GatedActivationArgs)
  PARE_GUARDED(add, AddArgs)
  PARE_GUARDED(softcap, SoftcapArgs)
  PARE_GUARDED(softmax, SoftmaxArgs)
  PARE_GUARDED(embedding, EmbeddingArgs)
  PARE_GUARDED(quantized_embedding, QuantizedEmbeddingArgs)
  PARE_GUARDED(cross_entropy, CrossEntropyArgs)
  PARE_GUARDED(divergence, DivergenceArgs)
  PARE_GUARDED(matmul, MatmulArgs)
  PARE_GUARDED(packed_matmul, PackedMatmulArgs)
  size_t matmul_workspace_bytes(int64_t m, int64_t n, int64_t k) const override {
    return inner_.matmul_workspace_bytes(m, n, k);
  }
  size_t packed_matmul_workspace_bytes(const PackedMatrix& weight, int64_t m) const override {
    return inner_.packed_matmul_workspace_bytes(weight, m);
  }
  Result<PackedMatrix> prepack(std::shared_ptr<const QuantizedTensor> weight) override {
    return inner_.prepack(std::move(weight));
  }
  Result<QuantizedTensor> unpack(const PackedMatrix& packed) override { return inner_.unpack(packed); }
  KernelChoice choose_sparse(const SparseSummary& weight) const override {
    return inner_.choose_sparse(weight);
  }
  Result<PackedMatrix> prepack_sparse(std::shared_ptr<const SparseTensor> weight) override {
    return inner_.prepack_sparse(std::move(weight));
  }
  Result<SparseTensor> unpack_sparse(const PackedMatrix& packed) override {
    return inner_.unpack_sparse(packed);
  }
  TrainingBackend* training() override { return &training_; }

 private:
  Status copy(void* to, const void* from, size_t bytes) {
    const Unlocked unlocked(*arena_);
    std::memcpy(to, from, bytes);
    return {};
  }
  std::unique_ptr<Backend> own_;
  Backend& inner_;
  std::shared_ptr<Arena> arena_;
  GuardedTraining training_;
};

}  // namespace

std::unique_ptr<Backend> make_guarded_backend(std::unique_ptr<Backend> cpu) {
  return std::make_unique<GuardedBackend>(std::move(cpu));
}

}  // namespace pare::test
