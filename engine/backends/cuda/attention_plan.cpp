#include "engine/backends/cuda/attention_plan.h"

#include <algorithm>
#include <array>
#include <atomic>

#include <fmt/core.h>

#include "engine/core/assert.h"

namespace pare::cuda {
namespace {

constexpr size_t kPassBytes = size_t{64} << 20;  // of bf16 copies: stays in the L2 of a large card, or nearly
constexpr int64_t kBackwardHeadDim = 128;        // dk and dv of a wider head do not fit the registers
constexpr int64_t kUnsplitKeys = 256;            // shorter contexts are not worth a second kernel
constexpr int64_t kSplitKeys = 128;              // least share of a block: 2 steps of each warp
constexpr int64_t kMostSplits = 128;

int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
size_t aligned(size_t bytes) {
  return (bytes + 255) / 256 * 256;
}

bool decode_supports(const AttentionArgs& a, MathMode math) {
  return math == MathMode::bf16 && a.head_dim <= kTensorHeadDim && a.query_tokens <= kDecodeTokens &&
         a.log_sum_exp == nullptr;
}
bool prefill_supports(const AttentionArgs& a, MathMode math) {
  return math == MathMode::bf16 && a.head_dim <= kTensorHeadDim;
}
bool exact_supports(const AttentionArgs&, MathMode) {
  return true;
}

constexpr std::array kKernels{
    AttentionKernelRow{AttentionKernel::decode, "decode",
                       "bf16 products, head_dim <= 256, <= 16 query tokens, no log-sum-exp", decode_supports},
    AttentionKernelRow{AttentionKernel::prefill, "prefill", "bf16 products, head_dim <= 256",
                       prefill_supports},
    AttentionKernelRow{AttentionKernel::exact, "exact", "everything; f32 products", exact_supports}};

std::atomic<int> forced{-1};

int tensor_head_dim(int64_t head_dim) {
  for (const int padded : {64, 80, 96, 128, 256}) {
    if (head_dim <= padded) return padded;
  }
  PARE_ASSERT(false, "[attention] head_dim {} on tensor cores", head_dim);
}

void plan_exact(const AttentionArgs& a, AttentionPlan& plan) {
  plan.padded_head_dim = a.head_dim <= 64 ? 64 : a.head_dim <= 128 ? 128 : 256;
  plan.tile_rows = kExactRows;
  plan.column_tiles = divide_up(a.head_dim, plan.padded_head_dim);
  // queries and keys of 32 columns, or values of 16 keys, in the same place; probabilities
  constexpr size_t kPitch = size_t{kExactRows} + 4;
  plan.shared_bytes = (2 * 32 * kPitch + size_t{kExactKeys} * kPitch) * sizeof(float);
}

void plan_prefill(const AttentionArgs& a, AttentionPlan& plan) {
  plan.padded_head_dim = tensor_head_dim(a.head_dim);
  // 32 rows of a warp use every fragment of keys and values twice; 256 columns of 32 rows would not fit its
  // registers
  plan.tile_rows = prefill_rows(plan.padded_head_dim);
  const auto pitch_bytes = size_t(plan.padded_head_dim + 8) * 2;
  plan.shared_bytes = (size_t(plan.tile_rows) + 2 * size_t(prefill_keys(plan.padded_head_dim))) * pitch_bytes;
  plan.converts = !keys_are_copyable(a);
  if (!plan.converts) return;
  const size_t unit = 2 * aligned(size_t(a.key_tokens) * size_t(plan.padded_head_dim) * 2);
  plan.units_per_pass = std::clamp<int64_t>(int64_t(kPassBytes / unit), 1, plan.units);
  plan.scratch_bytes = size_t(plan.units_per_pass) * unit;
}

void plan_decode(const AttentionArgs& a, int multiprocessors, AttentionPlan& plan) {
  plan.padded_head_dim = a.head_dim <= 64 ? 64 : a.head_dim <= 128 ? 128 : 256;
  // the outputs of 16 rows of 256 columns would not fit the registers
  plan.tile_rows = plan.rows <= 8 || plan.padded_head_dim == 256 ? 8 : 16;
  plan.row_tiles = divide_up(plan.rows, plan.tile_rows);
  const int64_t keys = a.window > 0 ? std::min(a.key_tokens, a.window + a.query_tokens - 1) : a.key_tokens;
  if (keys > kUnsplitKeys) {
    // two blocks per multiprocessor: 8 warps with 8 KB under way each are more than the memory's latency asks
    // for
    const int64_t wanted = divide_up(2 * int64_t{multiprocessors}, plan.units * plan.row_tiles);
    plan.splits = std::clamp<int64_t>(std::min(wanted, divide_up(keys, kSplitKeys)), 1, kMostSplits);
  }
  // outputs, maxima and sums of 4 warps, where the queries have been before
  const auto tile_rows = size_t(plan.tile_rows);
  plan.shared_bytes = 4 * tile_rows * (size_t(plan.padded_head_dim) + 4 + 2) * sizeof(float);
  if (plan.splits > 1) {
    const auto parts = size_t(plan.units * plan.rows * plan.splits);
    plan.scratch_bytes =
        aligned(parts * size_t(a.head_dim) * sizeof(float)) + 2 * aligned(parts * sizeof(float));
  }
}

}  // namespace

KvForm kv_form(const AttentionArgs& a) {
  if (a.kv.kind == KvQuant::Kind::int8) return KvForm::int8;
  if (a.kv.kind == KvQuant::Kind::int4) return KvForm::int4;
  PARE_ASSERT(a.kv_dtype == DType::f32 || a.kv_dtype == DType::bf16, "[attention] keys and values of {}",
              dtype_name(a.kv_dtype));
  return a.kv_dtype == DType::f32 ? KvForm::f32 : KvForm::bf16;
}

bool keys_are_copyable(const AttentionArgs& a) {
  if (kv_form(a) != KvForm::bf16 || a.head_dim % 8 != 0) return false;
  const auto is_aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  return is_aligned(a.k) && is_aligned(a.v) && a.kv_sequence_stride % 8 == 0 && a.kv_head_stride % 8 == 0 &&
         a.kv_position_stride % 8 == 0;
}

std::span<const AttentionKernelRow> attention_kernels() {
  return kKernels;
}

std::string describe_attention_kernels() {
  std::string text;
  for (const AttentionKernelRow& row : kKernels) text += fmt::format("{:8}  {}\n", row.name, row.takes);
  return text;
}

void force_attention_kernel(std::optional<AttentionKernel> kernel) {
  forced = kernel ? int(*kernel) : -1;
}

AttentionKernel choose_attention_kernel(const AttentionArgs& a, MathMode math) {
  const int wanted = forced;
  for (const AttentionKernelRow& row : kKernels) {
    if (int(row.kernel) == wanted && row.supports(a, math)) return row.kernel;
  }
  for (const AttentionKernelRow& row : kKernels) {
    if (row.supports(a, math)) return row.kernel;
  }
  return AttentionKernel::exact;
}

AttentionPlan plan_attention(const AttentionArgs& a, AttentionKernel kernel, int multiprocessors) {
  constexpr int64_t kMost = 0x3fffffff;  // positions and rows are int in kernels, sums of two of them as well
  const int64_t group = a.heads / a.kv_heads;
  PARE_ASSERT(a.query_tokens <= kMost / group && a.key_tokens <= kMost && a.query_offset <= kMost,
              "[attention] {} queries of {} heads from {}, {} keys", a.query_tokens, group, a.query_offset,
              a.key_tokens);
  AttentionPlan plan{};
  plan.kernel = kernel;
  plan.units = a.sequences * a.kv_heads;
  plan.rows = a.query_tokens * group;
  plan.column_tiles = plan.splits = 1;
  plan.units_per_pass = plan.units;
  switch (kernel) {
    case AttentionKernel::decode:
      plan_decode(a, multiprocessors, plan);
      break;
    case AttentionKernel::prefill:
      plan_prefill(a, plan);
      break;
    case AttentionKernel::exact:
      plan_exact(a, plan);
      break;
  }
  plan.row_tiles = divide_up(plan.rows, plan.tile_rows);
  return plan;
}

AttentionBackwardPlan plan_attention_backward(const AttentionBackwardArgs& a, MathMode math) {
  constexpr int64_t kMost = 0x3fffffff;
  const int64_t group = a.heads / a.kv_heads;
  PARE_ASSERT(a.tokens <= kMost / group, "[attention_backward] {} tokens of {} heads", a.tokens, group);
  AttentionBackwardPlan plan{};
  plan.is_tensor = math == MathMode::bf16 && a.head_dim <= kBackwardHeadDim;
  plan.units = a.sequences * a.kv_heads;
  plan.rows = a.tokens * group;
  plan.key_tiles = divide_up(a.tokens, 64);
  plan.row_tiles = divide_up(plan.rows, 64);
  plan.column_tiles = 1;
  const size_t floats_of_rows = aligned(size_t(plan.rows) * sizeof(float));
  if (plan.is_tensor) {
    plan.padded_head_dim = tensor_head_dim(a.head_dim);
    const auto width = size_t(plan.padded_head_dim) * 2;
    plan.pass_unit_bytes =
        2 * aligned(size_t(plan.rows) * width) + 2 * aligned(size_t(a.tokens) * width) + 2 * floats_of_rows;
  } else {
    plan.padded_head_dim = a.head_dim <= 64 ? 64 : 128;
    plan.column_tiles = divide_up(a.head_dim, plan.padded_head_dim);
    plan.pass_unit_bytes = floats_of_rows;
  }
  plan.units_per_pass = std::clamp<int64_t>(int64_t(kPassBytes / plan.pass_unit_bytes), 1, plan.units);
  plan.scratch_bytes = size_t(plan.units_per_pass) * plan.pass_unit_bytes;
  return plan;
}

}  // namespace pare::cuda
