// Which products are fused, and their launches.
#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <optional>

#include "engine/backends/cuda/decode_class.h"
#include "engine/backends/cuda/decode_plan.h"

namespace pare::cuda {

std::string CudaDecode::why_not_fused(const DecodeMatrix* matrices, int count, int64_t rows) const {
  if (context_.math() != MathMode::bf16) return "products are f32";
  const std::string why = why_not_planned(matrices, count, rows);
  if (!why.empty()) return why;
  constexpr size_t kStatic = 2048;  // arrays of the kernel that count too, with room
  const size_t bytes = fused_shared_bytes(matrices[0], count, rows) + kStatic;
  const size_t limit = context_.properties().sharedMemPerBlockOptin;
  return bytes <= limit ? std::string()
                        : fmt::format("{} bytes of shared memory, {} are there", bytes, limit);
}

void CudaDecode::product(const DecodeProductArgs& a) {
  const FusedPlan plan{.in = a.in,
                       .matrices = &a.matrix,
                       .count = 1,
                       .is_pair = false,
                       .out = a.out,
                       .out_stride = a.out_stride,
                       .accumulate = a.accumulate,
                       .activation = a.activation};
  launch_fused(context_, a.accumulate ? "decode_residual" : "decode_product", plan);
}

void CudaDecode::gated(const DecodeGatedArgs& a) {
  const DecodeMatrix matrices[2] = {a.gate, a.up};
  launch_fused(context_, "decode_gated",
               {.in = a.in,
                .matrices = matrices,
                .count = 2,
                .is_pair = true,
                .out = a.out,
                .out_stride = a.out_stride,
                .activation = a.activation});
}

void CudaDecode::qkv(const DecodeQkvArgs& a) {
  const DecodeHeadsArgs& heads = a.heads;
  launch_fused(context_, "decode_qkv",
               {.in = a.in,
                .matrices = a.matrices,
                .count = a.matrix_count,
                .is_pair = false,
                .out = heads.qkv,
                .out_stride = (heads.heads + 2 * heads.kv_heads) * heads.head_dim,
                .heads = &heads,
                .counters = a.counters});
}

}  // namespace pare::cuda
