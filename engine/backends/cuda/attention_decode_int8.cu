// attention of few queries over keys and values of one form.
#include "engine/backends/cuda/attention_decode_kernel.cuh"

namespace pare::cuda {

void launch_attention_decode_int8(Context& context, const AttentionCall& call, const AttentionPlan& plan,
                                  const DecodeOptions& options, bool is_dependent) {
  launch_attention_decode<KvForm::int8>(context, call, plan, options, is_dependent);
}

}  // namespace pare::cuda
