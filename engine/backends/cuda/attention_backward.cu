// attention_backward: sums of dout * out, then the gradients by float products (attention_backward_exact.cu)
// or by tensor cores (attention_backward_tensor.cu). FlashAttention-2's scheme (Dao, 2023), with the gradient
// of queries in a kernel of its own, so that no sum is made by atomics.
#include "engine/backends/cuda/attention_backward.h"
#include "engine/backends/cuda/training_class.h"

namespace pare::cuda {
namespace {

constexpr int kThreads = 256;

// A warp per row.
__global__ void __launch_bounds__(kThreads) delta_kernel(BackwardCall a, int units) {
  const int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / 32;
  if (i >= int64_t(units) * a.rows) return;
  const int unit = a.first_unit + int(i / a.rows), row = int(i % a.rows), lane = int(threadIdx.x) % 32;
  const float* out = a.out + a.row_at(unit, row, a.out_stride);
  const float* dout = a.dout + a.row_at(unit, row, a.dout_stride);
  float sum = 0.0f;
  for (int d = lane; d < a.head_dim; d += 32) sum = fmaf(out[d], dout[d], sum);
  sum = warp_sum(sum);
  if (lane == 0) a.delta[i] = sum;
}

}  // namespace

void CudaTraining::attention_backward(const AttentionBackwardArgs& a) {
  const AttentionBackwardPlan plan = plan_attention_backward(a, context_.math());
  auto* scratch = static_cast<unsigned char*>(context_.scratch(plan.scratch_bytes));
  if (scratch == nullptr) return;
  BackwardCall call{.q = a.q,
                    .k = a.k,
                    .v = a.v,
                    .out = a.out,
                    .log_sum_exp = a.log_sum_exp,
                    .dout = a.dout,
                    .dq = a.dq,
                    .dk = a.dk,
                    .dv = a.dv,
                    .q_stride = a.q_stride,
                    .kv_stride = a.kv_stride,
                    .out_stride = a.out_stride,
                    .dout_stride = a.dout_stride,
                    .dq_stride = a.dq_stride,
                    .dkv_stride = a.dkv_stride,
                    .scale = a.scale,
                    .softcap = a.softcap,
                    .tokens = int(a.tokens),
                    .kv_heads = int(a.kv_heads),
                    .group = int(a.heads / a.kv_heads),
                    .head_dim = int(a.head_dim),
                    .rows = int(plan.rows),
                    .window = int(std::min(a.window, a.tokens)),
                    .first_unit = 0,
                    .causal = a.causal,
                    .delta = reinterpret_cast<float*>(scratch)};
  for (int64_t first = 0; first < plan.units; first += plan.units_per_pass) {
    const int64_t units = std::min(plan.units_per_pass, plan.units - first);
    call.first_unit = int(first);
    context_.launch("attention_delta", delta_kernel,
                    {.grid = blocks_for(units * plan.rows, kThreads / 32), .block = kThreads}, call,
                    int(units));
    if (plan.is_tensor) {
      launch_backward_tensor(context_, call, plan, units, scratch);
    } else {
      launch_backward_exact(context_, call, plan, units);
    }
  }
}

}  // namespace pare::cuda
