// attention of few queries: the launches, and the merge of the parts.
#include "engine/backends/cuda/attention_decode_kernel.cuh"

namespace pare::cuda {
namespace {

constexpr int kMergeThreads = 128;
constexpr int kMostParts = 128;

// A block per row: out = sum of the parts, each times 2^(its maximum - the largest), in the order of the
// parts.
__global__ void __launch_bounds__(kMergeThreads) merge_kernel(AttentionCall a, DecodeOptions options) {
  __shared__ float weights[kMostParts];
  __shared__ float shared_total;
  ptx::wait_for_predecessor();
  ptx::release_successor();
  const int unit = int(blockIdx.x) / a.rows, row = int(blockIdx.x) % a.rows;
  const AttentionUnit u = attention_unit(a, unit);
  const int64_t part = int64_t(blockIdx.x) * options.splits;
  if (threadIdx.x < 32) {
    float largest = kNoScore, total = 0.0f;
    for (int i = int(threadIdx.x); i < options.splits; i += 32)
      largest = fmaxf(largest, options.partial_largest[part + i]);
    largest = warp_max(largest);
    for (int i = int(threadIdx.x); i < options.splits; i += 32) {
      // a part without keys: no weight, whatever stands in its place
      const float own = options.partial_largest[part + i];
      weights[i] = own == kNoScore ? 0.0f : ptx::exp2_fast(own - largest);
      total = fmaf(weights[i], options.partial_total[part + i], total);
    }
    total = warp_sum(total);
    if (threadIdx.x == 0) shared_total = total;
  }
  __syncthreads();
  const float total = shared_total, scale = total == 0.0f ? 0.0f : 1.0f / total;
  float* target = a.out + row_offset(a, u, row, a.out_stride);
  for (int d = int(threadIdx.x); d < a.head_dim; d += kMergeThreads) {
    float sum = 0.0f;
#pragma unroll 8
    for (int i = 0; i < options.splits; ++i)
      sum = fmaf(weights[i], options.partial_out[(part + i) * a.head_dim + d], sum);
    target[d] = sum * scale;
  }
}

}  // namespace

void run_attention_decode(Context& context, const AttentionCall& call, const AttentionPlan& plan,
                          bool is_dependent) {
  PARE_ASSERT(plan.splits <= kMostParts, "[attention] {} parts", plan.splits);
  const ScoreFactors factors = score_factors(call.scale, call.softcap);
  const int64_t element_bytes = call.form == KvForm::f32 ? 4 : call.form == KvForm::bf16 ? 2 : 1;
  // What a lane loads at once (RowLayout): 16 bytes, less of short rows of codes.
  const size_t code_bytes = size_t(plan.padded_head_dim) / (call.form == KvForm::int8 ? 8 : 16);
  const bool is_code = call.form == KvForm::int8 || call.form == KvForm::int4;
  DecodeOptions options{.query_factor = factors.query,
                        .factor = factors.exponent,
                        .keys_vectors = rows_are_aligned(call, element_bytes,
                                                         is_code ? std::min<size_t>(16, 2 * code_bytes) : 16),
                        .values_vectors = rows_are_aligned(call, element_bytes,
                                                           is_code ? std::min<size_t>(16, code_bytes) : 16),
                        .row_tiles = int(plan.row_tiles),
                        .splits = int(plan.splits),
                        .partial_out = nullptr,
                        .partial_largest = nullptr,
                        .partial_total = nullptr};
  if (call.form == KvForm::f32 && call.head_dim % 4 != 0)
    options.keys_vectors = options.values_vectors = false;
  if (plan.splits > 1) {
    const auto aligned = [](size_t bytes) { return (bytes + 255) / 256 * 256; };
    const auto parts = size_t(plan.units * plan.rows * plan.splits);
    auto* scratch = static_cast<unsigned char*>(context.scratch(plan.scratch_bytes));
    if (scratch == nullptr) return;
    options.partial_out = reinterpret_cast<float*>(scratch);
    scratch += aligned(parts * size_t(call.head_dim) * sizeof(float));
    options.partial_largest = reinterpret_cast<float*>(scratch);
    options.partial_total = reinterpret_cast<float*>(scratch + aligned(parts * sizeof(float)));
  }
  switch (call.form) {
    case KvForm::f32:
      launch_attention_decode_f32(context, call, plan, options, is_dependent);
      break;
    case KvForm::bf16:
      launch_attention_decode_bf16(context, call, plan, options, is_dependent);
      break;
    case KvForm::int8:
      launch_attention_decode_int8(context, call, plan, options, is_dependent);
      break;
    case KvForm::int4:
      launch_attention_decode_int4(context, call, plan, options, is_dependent);
      break;
  }
  if (plan.splits > 1) {
    context.launch(
        "attention_merge", merge_kernel,
        {.grid = blocks_for(plan.units * plan.rows, 1), .block = kMergeThreads, .is_dependent = true}, call,
        options);
  }
}

}  // namespace pare::cuda
