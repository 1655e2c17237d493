#include "engine/backends/cpu/cpu_backend.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <utility>

#include "engine/backends/cpu/kernels.h"
#include "engine/backends/cpu/matmul/matmul.h"
#include "engine/backends/cpu/pieces.h"
#include "engine/backends/cpu/sparse/choice.h"
#include "engine/backends/cpu/sparse/sparse.h"
#include "engine/backends/cpu/training_class.h"
#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/tensor/quantized_tensor.h"
#include "engine/tensor/storage.h"

namespace pare {
namespace {

using cpu::for_rows;
using cpu::Isa;

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(Isa isa) : isa_(isa), kernels_(cpu::kernels(isa)), training_(isa) {}

  Device device() const override { return Device::cpu(); }
  std::string description() const override {
    const int threads = thread_count();
    return fmt::format("cpu: {}, {} thread{}", cpu::isa_name(isa_), threads, threads == 1 ? "" : "s");
  }
  Result<std::shared_ptr<Storage>> allocate(size_t bytes) override {
    return Storage::allocate(bytes, device());
  }

  void rms_norm(const RmsNormArgs& a) override {
    for_rows(a.tokens, a.channels, [&](int64_t begin, int64_t end) { kernels_.rms_norm(a, begin, end); });
  }
  void layer_norm(const LayerNormArgs& a) override {
    for_rows(a.tokens, a.channels, [&](int64_t begin, int64_t end) { kernels_.layer_norm(a, begin, end); });
  }
  void rotary(const RotaryArgs& a) override {
    for_rows(a.tokens, a.heads * a.rotary_dim,
             [&](int64_t begin, int64_t end) { kernels_.rotary(a, begin, end); });
  }
  void activation(const ActivationArgs& a) override {
    for_rows(a.rows, a.columns, [&](int64_t begin, int64_t end) { kernels_.activation(a, begin, end); });
  }
  void gated_activation(const GatedActivationArgs& a) override {
    for_rows(a.rows, a.columns,
             [&](int64_t begin, int64_t end) { kernels_.gated_activation(a, begin, end); });
  }
  void add(const AddArgs& a) override {
    for_rows(a.count, 1, [&](int64_t begin, int64_t end) { kernels_.add(a, begin, end); });
  }
  void softcap(const SoftcapArgs& a) override {
    for_rows(a.count, 1, [&](int64_t begin, int64_t end) { kernels_.softcap(a, begin, end); });
  }
  void softmax(const SoftmaxArgs& a) override {
    for_rows(a.rows, a.columns, [&](int64_t begin, int64_t end) { kernels_.softmax(a, begin, end); });
  }
  void embedding(const EmbeddingArgs& a) override {
    for_rows(a.tokens, a.channels, [&](int64_t begin, int64_t end) { kernels_.embedding(a, begin, end); });
  }
  void quantized_embedding(const QuantizedEmbeddingArgs& a) override;
  void cross_entropy(const CrossEntropyArgs& a) override {
    for_rows(a.rows, a.columns, [&](int64_t begin, int64_t end) { kernels_.cross_entropy(a, begin, end); });
  }
  void divergence(const DivergenceArgs& a) override {
    for_rows(a.rows, a.columns, [&](int64_t begin, int64_t end) { kernels_.divergence(a, begin, end); });
  }
  void attention(const AttentionArgs& a) override;

  size_t matmul_workspace_bytes(int64_t m, int64_t n, int64_t k) const override {
    return cpu::matmul_workspace_bytes(isa_, m, n, k);
  }
  void matmul(const MatmulArgs& a) override { cpu::matmul(isa_, a); }
  Result<PackedMatrix> prepack(std::shared_ptr<const QuantizedTensor> weight) override {
    return cpu::prepack(isa_, std::move(weight));
  }
  Result<QuantizedTensor> unpack(const PackedMatrix& packed) override { return cpu::unpack(packed); }
  KernelChoice choose_sparse(const SparseSummary& weight) const override {
    return cpu::choose_sparse(isa_, weight);
  }
  Result<PackedMatrix> prepack_sparse(std::shared_ptr<const SparseTensor> weight) override;
  Result<SparseTensor> unpack_sparse(const PackedMatrix& packed) override {
    if (packed.canonical_sparse != nullptr) return *packed.canonical_sparse;
    return cpu::sparse_unpack(packed);
  }
  size_t packed_matmul_workspace_bytes(const PackedMatrix& weight, int64_t m) const override {
    if (weight.pattern) return cpu::sparse_workspace_bytes(weight, m);
    return cpu::packed_matmul_workspace_bytes(isa_, weight, m);
  }
  void packed_matmul(const PackedMatmulArgs& a) override {
    if (a.weight->pattern) return cpu::sparse_matmul(isa_, cpu::kernels_of(isa_, *a.weight), a);
    cpu::packed_matmul(isa_, a);
  }
  TrainingBackend* training() override { return &training_; }

 private:
  Isa isa_;
  const cpu::Kernels& kernels_;
  cpu::CpuTraining training_;
};

Result<PackedMatrix> CpuBackend::prepack_sparse(std::shared_ptr<const SparseTensor> weight) {
  PARE_ASSERT(weight != nullptr, "[prepack] nothing to pack");
  const bool is_empty = weight->out() == 0 || weight->in() == 0;
  if (!cpu::has_sparse_form(weight->scheme, weight->activation.has_value())) {
    return Error{.exit = Exit::unsupported,
                 .rule = {},
                 .path = {},
                 .where = {},
                 .what = "no sparse kernel for these codes",
                 .got = weight->scheme->text(),
                 .limit = {}};
  }
  if (!is_empty) return cpu::sparse_prepack(*cpu::sparse_kernels(isa_).front(), *weight);
  PackedMatrix packed;
  packed.out = weight->out();
  packed.in = weight->in();
  packed.pattern = weight->pattern;
  packed.value_dtype = weight->has_codes() ? DType::u8 : weight->values.dtype();
  if (weight->scheme) packed.scheme = *weight->scheme;
  packed.canonical_sparse = std::move(weight);
  return packed;
}

void CpuBackend::quantized_embedding(const QuantizedEmbeddingArgs& a) {
  constexpr int64_t kSlice = 1024;  // weights dequantized at a time
  const int64_t channels = a.table->in();
  for_rows(a.tokens, channels, [&](int64_t first, int64_t last) {
    std::array<float, size_t{kSlice}> weights;
    for (int64_t t = first; t < last; ++t) {
      float* out = a.out + t * a.out_stride;
      for (int64_t begin = 0; begin < channels; begin += kSlice) {
        const int64_t end = std::min(channels, begin + kSlice);
        a.table->dequantize_slice(a.ids[t], begin, end, weights.data());
        kernels_.scale_row(weights.data(), a.scale, a.accumulate, out + begin, end - begin);
      }
    }
  });
}

void CpuBackend::attention(const AttentionArgs& a) {
  PARE_ASSERT(a.kv_dtype == DType::f32, "[attention] keys and values on the host are F32, got {}",
              dtype_name(a.kv_dtype));
  const cpu::AttentionPlan plan = cpu::plan_attention(a);
  const int64_t elements_per_item =
      plan.heads_per_item * plan.positions_per_item * a.key_tokens * a.head_dim / 8;
  for_rows(plan.items, elements_per_item, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) kernels_.attention(a, plan, item);
  });
}

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(cpu::Isa level) {
  PARE_ASSERT(level <= cpu::host_isa(), "[make_cpu_backend] level {}, host {}", cpu::isa_name(level),
              cpu::isa_name(cpu::host_isa()));
  return std::make_unique<CpuBackend>(level);
}

std::unique_ptr<Backend> make_cpu_backend() {
  return make_cpu_backend(cpu::best_isa());
}

}  // namespace pare
