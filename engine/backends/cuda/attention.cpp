// attention: chooses the kernel and hands over.
#include <algorithm>

#include "engine/backends/cuda/attention_call.h"
#include "engine/backends/cuda/attention_decode.h"
#include "engine/backends/cuda/backend_class.h"

namespace pare::cuda {
namespace {

void run(Context& context, const AttentionArgs& a, AttentionKernel kernel, const AttentionCall& call,
         bool is_dependent) {
  const AttentionPlan plan = plan_attention(a, kernel, context.multiprocessors());
  switch (kernel) {
    case AttentionKernel::decode:
      return run_attention_decode(context, call, plan, is_dependent);
    case AttentionKernel::prefill:
      return run_attention_prefill(context, call, plan);
    case AttentionKernel::exact:
      return run_attention_exact(context, call, plan);
  }
}

// With lengths in device memory only the kernels that read them there will do.
AttentionKernel decode_kernel(const AttentionArgs& a, MathMode math) {
  const AttentionKernel kernel = choose_attention_kernel(a, math);
  return kernel == AttentionKernel::prefill ? AttentionKernel::exact : kernel;
}

}  // namespace

AttentionCall attention_call(const AttentionArgs& a, const int32_t* lengths, int32_t length_offset) {
  const int64_t group = a.heads / a.kv_heads;
  return {.q = a.q,
          .out = a.out,
          .log_sum_exp = a.log_sum_exp,
          .k = a.k,
          .v = a.v,
          .k_scales = a.k_scales,
          .v_scales = a.v_scales,
          .k_zeros = a.k_zeros,
          .v_zeros = a.v_zeros,
          .lengths = lengths,
          .q_stride = a.q_stride,
          .out_stride = a.out_stride,
          .kv_sequence_stride = a.kv_sequence_stride,
          .kv_head_stride = a.kv_head_stride,
          .kv_position_stride = a.kv_position_stride,
          .grid_head_stride = a.grid_head_stride,
          .scale = a.scale,
          .softcap = a.softcap,
          .sequences = int(a.sequences),
          .query_tokens = int(a.query_tokens),
          .key_tokens = int(a.key_tokens),
          .query_offset = int(a.query_offset),
          .length_offset = length_offset,
          .kv_heads = int(a.kv_heads),
          .group = int(group),
          .head_dim = int(a.head_dim),
          .rows = int(a.query_tokens * group),
          .window = int(std::min(a.window, a.key_tokens + a.query_tokens)),
          .causal = a.causal,
          .form = kv_form(a)};
}

void CudaBackend::attention(const AttentionArgs& a) {
  run(*context_, a, choose_attention_kernel(a, context_->math()), attention_call(a, nullptr, 0), false);
}

Context& context_of(Backend& backend) {
  PARE_ASSERT(backend.device().kind == Device::Kind::cuda, "[cuda] context of {}", backend.device().name());
  return static_cast<CudaBackend&>(backend).context();
}

void attention_decode(Context& context, const AttentionDecodeArgs& args) {
  const AttentionArgs& a = args.attention;
  PARE_ASSERT(args.lengths != nullptr && a.sequences > 0 && a.query_tokens > 0 && a.key_tokens > 0,
              "[attention_decode] {} sequences of {} tokens, {} keys", a.sequences, a.query_tokens,
              a.key_tokens);
  run(context, a, decode_kernel(a, context.math()), attention_call(a, args.lengths, args.length_offset),
      args.is_dependent);
}

size_t attention_decode_scratch_bytes(const Context& context, const AttentionArgs& a) {
  return plan_attention(a, decode_kernel(a, context.math()), context.multiprocessors()).scratch_bytes;
}

}  // namespace pare::cuda
